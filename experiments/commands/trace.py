"""`adaeagle trace`: texts of a target and all drafts of their positions, recorded once."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import options

EXAMPLE = """Example:

adaeagle trace --max-new-tokens 128 --limit 16 --out runs/trace

adaeagle trace --envelope "chain(length=16)" "eagle2(depth=8, width=10)" --processes 2 \
--out runs/trace

The folder gets manifest.json, Parquet tables and safetensors; docs/traces.md tells what they hold.
The same command resumes there what was interrupted or killed."""

PROCESSES = "Processes, started by Lightning Fabric or found started by torchrun, SLURM, ..."


def trace(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the trace.", rich_help_panel=options.RUN)],
    envelope: Annotated[
        list[str] | None,
        typer.Option(
            help="Policies whose drafts together are recorded at every position; see `adaeagle "
            "policies`. Default: chains to 16, EAGLE-2's beams of widths 10 and 3 to depth 8, "
            "EAGLE's static tree.",
            metavar="SPEC SPEC ...",
        ),
    ] = None,
    models: options.ModelOptions,
    prompts: options.Prompts = "mini",
    limit: options.Limit = None,
    max_new_tokens: options.MaxNewTokens = 256,
    positions_at_once: Annotated[
        int,
        typer.Option(
            help="Positions drafted side by side: less needs less memory.",
            parser=options.whole(1),
            metavar="N",
            rich_help_panel=options.RUN,
        ),
    ] = 16,
    prompts_per_shard: Annotated[
        int,
        typer.Option(
            help="Prompts stored together: what a kill can lose of each process's work.",
            parser=options.whole(1),
            metavar="N",
            rich_help_panel=options.RUN,
        ),
    ] = 4,
    processes: Annotated[
        int,
        typer.Option(
            help="On each machine.",
            parser=options.whole(1),
            metavar="N",
            rich_help_panel=PROCESSES,
        ),
    ] = 1,
    num_nodes: Annotated[
        int,
        typer.Option(
            help="Number of machines.",
            parser=options.whole(1),
            metavar="N",
            rich_help_panel=PROCESSES,
        ),
    ] = 1,
    as_json: options.Json = False,
) -> None:
    """Record a target's answers at temperature 0, and what would be drafted at every position."""
    from adaeagle.trace.recorder import DEFAULT_ENVELOPE
    from experiments.commands.show import show
    from experiments.runs import trace as tracing

    settings = tracing.TraceSettings(
        out=out,
        models=models,
        prompts=prompts,
        limit=limit,
        max_new_tokens=max_new_tokens,
        envelope=[spec.strip() for spec in envelope or DEFAULT_ENVELOPE],
        positions_at_once=positions_at_once,
        prompts_per_shard=prompts_per_shard,
        processes=processes,
        num_nodes=num_nodes,
    )
    result = tracing.trace(settings)
    if result is not None:
        counts = (result.num_texts, result.num_positions, result.num_nodes)
        line = "{} texts, {} positions, {} nodes".format(*counts)
        show(result.summary, [line], as_json=as_json)
