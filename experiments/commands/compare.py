"""`adaeagle compare`: policies against each other and against plain decoding."""

from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands import options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from experiments.runs.compare import CompareResult

EXAMPLE = """Example:

adaeagle compare --policies "chain(length=4)" eagle2 --limit 8 --out runs/first

The folder gets results.json, config.json, records.jsonl (a line a prompt) and PNG pictures."""


def compare(
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Policies by name, with arguments as in Python; see `adaeagle policies`. vanilla "
            "is always one of them. Default: a list from short chains to EAGLE-2's full tree.",
            metavar="SPEC SPEC ...",
        ),
    ] = None,
    target: options.Target = "mini",
    drafter: options.Drafter = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    kernels: options.Kernels = "auto",
    prompts: options.Prompts = "mini",
    limit: options.Limit = None,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    sampling: options.Sampling = "rejection",
    seed: options.Seed = 0,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration",
            help="Decode once more, untimed, and draw how often drafted tokens are accepted "
            "against the draft model's confidence.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Measure policies on the same prompts, interleaved, against plain decoding."""
    from experiments.runs import compare as comparison
    from experiments.runs.models import ModelOptions

    settings = comparison.CompareSettings(
        models=ModelOptions(target, drafter, device, dtype, threads, kernels),
        policies=policies or comparison.POLICIES,
        prompts=prompts,
        limit=limit,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        sampling=sampling,
        seed=seed,
        calibration=calibration,
        out=out,
    )
    show_comparison(comparison.compare(settings), as_json=as_json)


def show_comparison(result: "CompareResult", *, as_json: bool) -> None:
    """What `compare` and `demo` show."""
    from experiments.commands.show import show
    from experiments.views.tables import divergence_line, group_table, round_table, speed_table

    records = result.records
    parts: list[RenderableType] = [
        speed_table(records),
        round_table(records),
        group_table(records, result.group_by),
    ]
    if result.compares_texts:
        parts.append(divergence_line(records))
    if result.is_coupled:
        parts.append("coupled sampling accepts less: these are not the speeds of sampling")
    show(result.summary, parts, result.files, as_json=as_json)
