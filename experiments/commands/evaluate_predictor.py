"""`adaeagle evaluate-predictor`: a predictor in its own terms, and in tokens a second."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import options

EXAMPLE = """Example:

adaeagle trace --out runs/trace && adaeagle profile --out runs/profile

adaeagle evaluate-predictor mini/specdec_pp --trace runs/trace --cost runs/profile/cost.json

The folder gets results.json, pictures, and replay/ with the policies' own results."""


def evaluate_predictor(
    predictor: Annotated[
        str,
        typer.Argument(
            help="Folder of `adaeagle train-predictor`, or a bundled one such as mini/ldlp.",
            metavar="PREDICTOR",
        ),
    ],
    trace: Annotated[Path, typer.Option(help="Folder of a trace of the same models.")],
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Policies to replay. Default: those that ask predictors of its kind, with "
            "thresholds as they are when not given.",
            metavar="SPEC SPEC ...",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="Which prompts; train-predictor reads those of tune.",
            **options.choice("test", "tune", "all"),
        ),
    ] = "test",
    cost: Annotated[
        Path | None,
        typer.Option(
            help="Cost table of the machine in question, from `adaeagle profile`. "
            "Default: cost.json in the folder of the trace.",
        ),
    ] = None,
    threads: options.Threads = None,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Evaluate a predictor on a trace: calibration, AUC, lengths, and the policies that use it."""
    from experiments.commands.show import show
    from experiments.runs import evaluate_predictor as evaluation
    from experiments.views.evaluation_tables import acceptance_table, length_table
    from experiments.views.tables import headroom_table, speed_table

    settings = evaluation.EvaluationSettings(
        predictor=predictor,
        trace=trace,
        policies=policies,
        split=split,
        cost=cost,
        threads=threads,
        out=out,
    )
    result = evaluation.evaluate(settings)
    results, group_by = result.results, result.results["by"]
    parts = []
    if results["acceptance"] is not None:
        parts.append(acceptance_table(results["acceptance"], group_by))
    if results["lengths"] is not None:
        parts.append(length_table(results["lengths"], group_by))
    parts += [speed_table(result.records), headroom_table(result.replayed)]
    show(result.summary, parts, result.files, as_json=as_json)
