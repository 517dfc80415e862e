"""`adaeagle export`: a policy for another engine, or as a folder."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import options

EXAMPLE = """Example:

adaeagle export --policy runs/sweep/best.json --to sglang
--target meta-llama/Llama-3.1-8B-Instruct --drafter yuhuili/EAGLE3-LLaMA3.1-Instruct-8B

adaeagle export --policy "ldlp(predictor='runs/ldlp')" --to folder --out runs/policy

`adaeagle compare --policies runs/policy` then runs the policy of the folder."""


def export(
    policy: Annotated[
        str,
        typer.Option(
            help="A spec, the folder of a policy, or best.json of a sweep.", metavar="SPEC"
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="vllm (a speculative config; chains), sglang (flags; chains and eagle2 trees), or "
            "folder (any policy, with the files it reads)."
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            help="Model that the engine is to serve. Default: that of the sweep.",
            rich_help_panel=options.MODELS,
        ),
    ] = None,
    drafter: Annotated[
        str | None,
        typer.Option(
            help="Draft model that it is to load. Default: that of the sweep.",
            rich_help_panel=options.MODELS,
        ),
    ] = None,
    drafter_kind: Annotated[
        str,
        typer.Option(
            help="eagle, eagle3, lm, or auto: as the sweep or the weights say, else by the name.",
            rich_help_panel=options.MODELS,
        ),
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write to; not needed for vllm and sglang.", rich_help_panel=options.RUN
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a policy as options of vLLM or SGLang, or as a folder that loads anywhere."""
    from experiments.commands.show import show
    from experiments.runs import export as exporting

    settings = exporting.ExportSettings(
        policy=policy, to=to, target=target, drafter=drafter, drafter_kind=drafter_kind, out=out
    )
    result = exporting.export(settings)
    exported = result.exported
    written = exported["command"] if "command" in exported else exported["out"]
    show(result.summary, files=[written], as_json=as_json)
