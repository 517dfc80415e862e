"""`adaeagle report`: a finished run as a page to look at."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import options

EXAMPLE = """Example:

adaeagle replay runs/trace --cost runs/profile/cost.json --out runs/replay

adaeagle report runs/replay --explore 6

The page is one file that needs no network. Of a replay it also shows draft trees round by round."""


def report(
    run: Annotated[
        Path,
        typer.Argument(help="Folder of a finished compare, demo or replay.", metavar="RUN"),
    ],
    explore: Annotated[
        int,
        typer.Option(
            help="Prompts whose rounds the page shows one by one, taken from each source in turn; "
            "a replay's trace must be where it was.",
            parser=options.whole(0),
            metavar="N",
        ),
    ] = 6,
    out: Annotated[
        Path | None, typer.Option(help="File of the page. Default: report.html in RUN.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write one HTML page of a finished run: policies, headroom, pictures, rounds."""
    from experiments.commands.show import show
    from experiments.report.making import ReportSettings, make_report

    result = make_report(ReportSettings(run, explore, out))
    show(result.summary, result.remarks, [result.sentence], as_json=as_json)
