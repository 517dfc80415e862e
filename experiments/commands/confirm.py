"""`adaeagle confirm`: what sweeps found, live on prompts that they have not seen."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import options

EXAMPLE = """Example:

adaeagle sweep --trace runs/trace --cost runs/profile/cost.json --out runs/sweep

adaeagle confirm runs/sweep --out runs/confirm

The folder gets confirm.html, a page for people, and results.json; live/ and replay/ hold what each
policy did on each prompt, as `adaeagle report` reads it. The same command goes on where it was."""


def confirm(
    sweeps: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of finished sweeps of one trace under one cost table.",
            metavar="SWEEP...",
        ),
    ],
    trace: Annotated[
        Path | None,
        typer.Option(help="Where the sweeps' trace is now, if not where it was.", metavar="DIR"),
    ] = None,
    limit: options.Limit = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Run as many prompts as so long allows.",
            parser=options.number,
            metavar="NUMBER",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    device: options.Device = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads. Default: those of the cost table.",
            parser=options.whole(1),
            metavar="N",
            rich_help_panel=options.MODELS,
        ),
    ] = None,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Run the best of each family and its published setting live, in turns, on test prompts."""
    from experiments.commands.show import show
    from experiments.confirm import running
    from experiments.confirm.tables import leaderboard_table

    settings = running.ConfirmSettings(
        sweeps=sweeps,
        trace=trace,
        limit=limit,
        seconds=seconds,
        device=device,
        threads=threads,
        out=out,
    )
    result = running.confirm(settings)
    show(result.summary, [leaderboard_table(result.results)], result.files, as_json=as_json)
