"""`adaeagle compare`: policies against each other and against plain decoding."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adaeagle.bench.records import PromptRecord
    from experiments.runs.compare import CompareResult

EXAMPLE = """Example:

adaeagle compare --policies "chain(length=4)" eagle2 --limit 8 --out runs/first

The folder gets results.json, config.json, records.jsonl (a line a prompt), PNG pictures, and
run.yaml: adaeagle --config runs/first/run.yaml compare --limit 80 --out runs/more."""


def compare(
    *,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Policies by name, with arguments as in Python; see `adaeagle policies`. vanilla "
            "is always one of them. Default: a list from short chains to EAGLE-2's full tree.",
            metavar="SPEC SPEC ...",
        ),
    ] = None,
    models: options.ModelOptions,
    baseline: options.Baseline = None,
    prompts: options.Prompts = "mini",
    limit: options.Limit = None,
    skip_long: options.SkipLong = False,
    max_new_tokens: options.MaxNewTokens = 256,
    sampling: options.SamplingOptions,
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
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Measure policies on the same prompts, interleaved, against plain decoding."""
    from experiments.runs import compare as comparison

    settings = comparison.CompareSettings(
        models=models,
        policies=policies or comparison.POLICIES,
        prompts=prompts,
        limit=limit,
        max_new_tokens=max_new_tokens,
        skip_long=skip_long,
        sampling=sampling,
        baseline=baseline,
        calibration=calibration,
        out=out,
        overwrite=overwrite,
    )
    show_comparison(comparison.compare(settings), as_json=as_json)


def show_comparison(result: "CompareResult", *, as_json: bool) -> None:
    """What `compare` and `demo` show."""
    from experiments.commands.show import show
    from experiments.views.tables import divergence_line

    parts = comparison_parts(result.records, result.results, result.group_by)
    if result.compares_texts:
        parts.append(divergence_line(result.records))
    if result.is_coupled:
        parts.append("coupled sampling accepts less: these are not the speeds of sampling")
    show(result.summary, parts, result.files, as_json=as_json)


def comparison_parts(
    records: Sequence["PromptRecord"], results: dict[str, Any], group_by: str
) -> list["RenderableType"]:
    """The tables of measured or replayed policies, the fastest first, and what they come to."""
    from adaeagle.bench.ranking import by_speed
    from experiments.views.ranking import ranking_table
    from experiments.views.tables import group_table, round_table, speed_table

    records = by_speed(records)
    return [
        speed_table(records),
        round_table(records),
        group_table(records, group_by),
        ranking_table(results["ranking"]),
        results["ranking"]["verdict"],
    ]
