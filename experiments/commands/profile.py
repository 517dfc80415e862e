"""`adaeagle profile`: what the parts of a round cost on this machine."""

from typing import Annotated

import typer

from experiments import options

EXAMPLE = """Example:

adaeagle profile --target mini --threads 1 --out runs/profile

The folder gets cost.json, the table that replays and policies read, and cost.png."""

GRID = "Grid"


def profile(
    *,
    widths: Annotated[
        list[int] | None,
        typer.Option(
            help="Nodes run by one draft forward of a tree. Default: 1 2 4 6 10.",
            parser=options.whole(1),
            metavar="N N ...",
            rich_help_panel=GRID,
        ),
    ] = None,
    nodes: Annotated[
        list[int] | None,
        typer.Option(
            help="Drafted nodes verified, of trees. Default: 1 2 4 8 16 24 32 48 64.",
            parser=options.whole(1),
            metavar="N N ...",
            rich_help_panel=GRID,
        ),
    ] = None,
    contexts: Annotated[
        list[int] | None,
        typer.Option(
            help="Tokens before the round. Default: 64 and up in steps of four times, to 4096 or "
            "what the model's context leaves.",
            parser=options.whole(1),
            metavar="N N ...",
            rich_help_panel=GRID,
        ),
    ] = None,
    batch_sizes: Annotated[
        list[int] | None,
        typer.Option(
            help="Texts side by side that are measured as well, beside one alone.",
            parser=options.whole(2),
            metavar="N N ...",
            rich_help_panel=GRID,
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            help="Samples of every cell, at least; up to four times as many where fewer give "
            "no table to rely on.",
            parser=options.whole(1),
            metavar="N",
            rich_help_panel=GRID,
        ),
    ] = 15,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Measure for so long instead, and until every cell has 3 samples.",
            parser=options.number,
            metavar="NUMBER",
            rich_help_panel=GRID,
        ),
    ] = None,
    models: options.ModelOptions,
    prompts: options.Prompts = "mini",
    limit: options.Limit = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Measure draft forwards, verifications and the rest of a round: a table for replays."""
    from experiments.commands.show import show
    from experiments.runs import profile as profiling
    from experiments.views.cost import cost_tables

    settings = profiling.ProfileSettings(
        models=models,
        widths=widths,
        nodes=nodes,
        contexts=contexts,
        batch_sizes=batch_sizes or (),
        rounds=rounds,
        seconds=seconds,
        prompts=prompts,
        limit=limit,
        seed=seed,
        out=out,
        overwrite=overwrite,
    )
    result = profiling.profile(settings)
    quality = result.model.about["quality"]
    verdict = "is good" if quality["is_good"] else "is not good enough to rely on"
    line = f"the table {verdict}: {quality['why']}"
    show(result.summary, (*cost_tables(result.model), line), result.files, as_json=as_json)
