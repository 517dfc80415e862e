"""`adaeagle audit`: is drafted text plain decoding's, token for token?"""

from typing import Annotated

import typer

from experiments import options

EXAMPLE = """Example:

adaeagle audit --policies "chain(length=4)" eagle2 --limit 8 --max-new-tokens 64

adaeagle audit --target random:qwen3 --limit 16

A random target (random, random:llama, mistral, qwen2, qwen3) is a small model of random weights; a
noisy copy of itself drafts for it.

The folder gets results.json: tokens compared, every divergence with its position and the gap of the
target's two best logits there. The exit code is 1 where, in float32, one lies above 1e-4."""


def audit(
    *,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Policies by name; see `adaeagle policies`. vanilla is always one of them. "
            "Default: chains, a static tree and EAGLE-2's trees.",
            metavar="SPEC SPEC ...",
        ),
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            help="Plain decoding of transformers (generate), or of this package (vanilla).",
            **options.choice("transformers", "vanilla"),
        ),
    ] = "transformers",
    models: options.ModelOptions,
    prompts: Annotated[
        str | None,
        typer.Option(
            help=f"{options.PROMPTS} Or random: random tokens, the default of a random target.",
            rich_help_panel=options.TEXT,
        ),
    ] = None,
    limit: options.Limit = None,
    skip_long: options.SkipLong = False,
    max_new_tokens: options.MaxNewTokens = 256,
    seed: options.Seed = 0,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Compare the text of policies with plain decoding at temperature 0, token for token."""
    from experiments.commands.show import show
    from experiments.runs import audit as audits
    from experiments.views.tables import audit_table, parting_table

    settings = audits.AuditSettings(
        models=models,
        policies=policies or audits.POLICIES,
        against=against,
        prompts=prompts,
        limit=limit,
        max_new_tokens=max_new_tokens,
        skip_long=skip_long,
        seed=seed,
        out=out,
        overwrite=overwrite,
    )
    result = audits.audit(settings)
    parts = [audit_table(result.results["arms"], against)]
    if result.results["divergences"]:
        parts.append(parting_table(result.results["divergences"]))
    show(result.summary, parts, [result.out / "results.json"], as_json=as_json)
    if not result.is_lossless:
        raise typer.Exit(1)
