"""`adaeagle sweep`: the best settings of policies, on recorded texts."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import options

EXAMPLE = """Example:

adaeagle trace --out runs/trace && adaeagle profile --out runs/profile

adaeagle sweep --trace runs/trace --cost runs/profile/cost.json --policies eagle2 "chain(stop=?)"
--trials 500 --out runs/sweep

The same command again goes on, also beside itself; the folder gets best.json, trials.csv and
pictures, and runs/sweep/study.db is what optuna-dashboard reads (sqlite:///runs/sweep/study.db)."""

SEARCH, SHARED = "Search", "Shared studies"


def sweep(
    trace: Annotated[
        Path, typer.Option(help="Folder of a trace; only its tune split is read.", metavar="DIR")
    ],
    cost: Annotated[
        Path | None,
        typer.Option(
            help="Cost table of the machine to tune for, from `adaeagle profile`. Default: "
            "cost.json in the folder of the trace.",
            metavar="FILE",
        ),
    ] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Policies to choose among. What a spec leaves out is searched within the bounds "
            "that `adaeagle policies --space` lists; ? stands for any stop rule. Default: chain, "
            "chain(stop=?), static_tree, eagle2.",
            metavar="SPEC SPEC ...",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    trials: Annotated[
        int,
        typer.Option(
            help="Trials of the study, counted over all its processes.",
            parser=options.whole(1),
            metavar="N",
            rich_help_panel=SEARCH,
        ),
    ] = 200,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Begin no other trial after so long, but try what was published.",
            parser=options.number,
            metavar="NUMBER",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(
            help="How settings are chosen.",
            **options.choice("tpe", "gp", "cmaes", "nsga2", "grid", "random"),
            rich_help_panel=SEARCH,
        ),
    ] = "tpe",
    pruner: Annotated[
        str | None,
        typer.Option(
            help="wilcoxon: stop what is slower than the best on the prompts so far; or none. "
            "Default: wilcoxon where seconds alone count.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    objectives: Annotated[
        str,
        typer.Option(
            help="seconds; or speed-and-nodes: tokens per second against verified nodes, for "
            "verification budgets that are shared.",
            rich_help_panel=SEARCH,
        ),
    ] = "seconds",
    seed: options.Seed = 0,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Any Optuna storage URL (postgresql://..., mysql://..., sqlite:///FILE) or "
            "journal:FILE. The same command on many machines then works on one study. Default: "
            "an SQLite file in the folder of the results.",
            metavar="URL",
            rich_help_panel=SHARED,
        ),
    ] = None,
    study: Annotated[
        str, typer.Option(help="Name of the study in the storage.", rich_help_panel=SHARED)
    ] = "sweep",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Give up trials that need what was not recorded; else the real draft model "
            "drafts it.",
            rich_help_panel=SEARCH,
        ),
    ] = False,
    device: options.Device = None,
    threads: options.Threads = None,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Tune policies on a trace under a cost table; only prompts of the tune split are read."""
    from experiments.commands.show import show
    from experiments.sweep import preparing, report, running

    settings = preparing.SweepSettings(
        trace=trace,
        policies=policies or preparing.POLICIES,
        cost=cost,
        trials=trials,
        seconds=seconds,
        sampler=sampler,
        pruner=pruner,
        objectives=objectives,
        seed=seed,
        storage=storage,
        study=study,
        strict=strict,
        device=device,
        threads=threads,
        out=out,
    )
    result = running.sweep(settings)
    plain = result.results["plain"]
    parts = [
        report.best_table(result.trials, plain, result.is_single),
        report.family_table(result.results["families"], plain),
        result.sentence,
    ]
    show(result.summary, parts, result.files, as_json=as_json)
