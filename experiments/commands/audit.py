"""`adaeagle audit`: is drafted text plain decoding's, token for token?"""

from typing import Annotated

import typer

from experiments.commands import options

EXAMPLE = """Example:

adaeagle audit --policies "chain(length=4)" eagle2 --limit 8 --max-new-tokens 64

adaeagle audit --target random:qwen3 --limit 16

The folder gets results.json: tokens compared, every divergence with its position and the gap of the
target's two best logits there. The exit code is 1 where, in float32, one lies above 1e-4."""


def audit(
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
            metavar="transformers|vanilla",
        ),
    ] = "transformers",
    target: Annotated[
        str,
        typer.Option(
            help="mini (bundled), a folder, a Hugging Face id; or random, random:FAMILY: a small "
            "random model (llama, mistral, qwen2, qwen3) with a noisy copy of itself as drafter.",
            rich_help_panel=options.MODELS,
        ),
    ] = "mini",
    drafter: options.Drafter = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    kernels: options.Kernels = "auto",
    prompts: Annotated[
        str | None,
        typer.Option(
            help="JSON Lines with id, category, turns (or token_ids), the bundled set mini, or "
            "random: random tokens. Default: mini; random for a random target.",
            rich_help_panel=options.TEXT,
        ),
    ] = None,
    limit: options.Limit = None,
    max_new_tokens: options.MaxNewTokens = 256,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Compare the text of policies with plain decoding at temperature 0, token for token."""
    from experiments.commands.show import show
    from experiments.runs import audit as audits
    from experiments.runs.models import ModelOptions
    from experiments.views.tables import audit_table, parting_table

    settings = audits.AuditSettings(
        models=ModelOptions(target, drafter, device, dtype, threads, kernels),
        policies=policies or audits.POLICIES,
        against=against,
        prompts=prompts,
        limit=limit,
        max_new_tokens=max_new_tokens,
        seed=seed,
        out=out,
    )
    result = audits.audit(settings)
    parts = [audit_table(result.results["arms"], against)]
    if result.results["divergences"]:
        parts.append(parting_table(result.results["divergences"]))
    show(result.summary, parts, [result.out / "results.json"], as_json=as_json)
    if not result.is_lossless:
        raise typer.Exit(1)
