"""`adaeagle replay`: policies on a trace, without the models."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import options

EXAMPLE = """Example:

adaeagle trace --out runs/trace && adaeagle profile --out runs/profile

adaeagle replay runs/trace --cost runs/profile/cost.json --policies "chain(length=4)" eagle2

The folder gets results.json, of the same form as `compare`'s, and PNG pictures."""


def replay(
    trace: Annotated[Path, typer.Argument(help="Folder of a trace.", metavar="TRACE")],
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Policies by name, with arguments as in Python; see `adaeagle policies`. vanilla "
            "is always one of them. Default: those of `compare`.",
            metavar="SPEC SPEC ...",
        ),
    ] = None,
    drafter: Annotated[
        str | None,
        typer.Option(
            help="Drafts in place of the recorded drafter, one that looks tokens up such as "
            "ngram(n_max=3), or one merged of it and a look-up. Default: what was recorded.",
            metavar="SPEC",
        ),
    ] = None,
    cost: Annotated[
        Path | None,
        typer.Option(
            help="Cost table of the machine in question, from `adaeagle profile`. "
            "Default: cost.json in the folder of the trace.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="Which prompts; of test, the best fixed draft is chosen on tune.",
            **options.choice("all", "tune", "test"),
        ),
    ] = "all",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Refuse what was not recorded; else the real draft model drafts it."
        ),
    ] = False,
    oracle: Annotated[
        bool,
        typer.Option(help="Solve the oracles, and say what share of the headroom each recovers."),
    ] = True,
    baseline: options.Baseline = None,
    any_cost: options.AnyCost = False,
    device: options.Device = None,
    threads: options.Threads = None,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Replay policies on recorded texts: exact rounds, seconds of a cost table."""
    from experiments.commands.compare import comparison_parts
    from experiments.commands.show import show
    from experiments.runs import compare as comparison
    from experiments.runs import replay as replaying
    from experiments.views.tables import headroom_table

    settings = replaying.ReplaySettings(
        trace=trace,
        policies=policies or comparison.POLICIES,
        drafter=drafter,
        cost=cost,
        split=split,
        strict=strict,
        oracle=oracle,
        baseline=baseline,
        any_cost=any_cost,
        device=device,
        threads=threads,
        out=out,
    )
    result = replaying.run_replay(settings)
    parts = comparison_parts(result.records, result.results, result.group_by)
    if result.results["oracle"] is not None:
        parts.append(headroom_table(result.results))
    missing = sum(result.results["num_missing"].values())
    line = f"{missing} nodes were not recorded and were drafted by the real draft model"
    show(result.summary, [*parts, line], result.files, as_json=as_json)
