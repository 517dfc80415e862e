"""`adaeagle study`: everything from two models to a leaderboard of tuned policies."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import options

EXAMPLE = """Example:

adaeagle study --threads 1 --time-budget 40 --out runs/study

adaeagle study --target meta-llama/Llama-3.1-8B-Instruct
--drafter yuhuili/EAGLE3-LLaMA3.1-Instruct-8B --prompts questions.jsonl --out runs/llama

It records a trace, profiles the machine, trains predictors, sweeps every policy, and runs the best
of each live beside its published setting; report.html shows what was won. The same command goes on
where it was, and does nothing where all is done."""


def study(
    *,
    out: Annotated[
        Path, typer.Option(help="Folder of all stages and the report.", rich_help_panel=options.RUN)
    ],
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Templates to sweep, as of `adaeagle sweep`, each by itself; no predictor is "
            "trained then. Default: everything registered that can be tuned.",
            metavar="SPEC SPEC ...",
        ),
    ] = None,
    trials: Annotated[
        int,
        typer.Option(
            help="Trials of each family, as far as the time allows.",
            parser=options.whole(1),
            metavar="N",
        ),
    ] = 100,
    time_budget: Annotated[
        float | None,
        typer.Option(
            help="Minutes for this call. Every stage gets a share; what is cut short for want of "
            "time is said. Default: no limit.",
            parser=options.number,
            metavar="MINUTES",
        ),
    ] = None,
    models: options.ModelOptions,
    prompts: options.Prompts = "mini",
    limit: options.Limit = None,
    max_new_tokens: options.MaxNewTokens = 256,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Trace, profile, train predictors, sweep every policy, confirm live, report."""
    from rich.console import RenderableType

    from experiments.commands.show import show
    from experiments.confirm.tables import leaderboard_table
    from experiments.study import planning, running

    settings = planning.StudySettings(
        out=out,
        models=models,
        prompts=prompts,
        limit=limit,
        max_new_tokens=max_new_tokens,
        policies=policies,
        trials=trials,
        time_budget=time_budget,
        seed=seed,
    )
    result = running.run_study(settings)
    parts: list[RenderableType] = [
        running.stage_table(result.results["stages"]),
        leaderboard_table(result.results),
    ]
    if result.was_done:
        parts = ["every stage was done, nothing is left to do", *parts]
    show(result.summary, parts, result.files, as_json=as_json)
