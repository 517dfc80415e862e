"""Options that several subcommands take, written once."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

MODELS, TEXT, RUN = "Models", "Text", "Run"
TRAINING, DEVICES = "Training", "Devices, as in Lightning"


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number that is at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise typer.BadParameter(f"must be a whole number >= {least}, got {text!r}")
        return value

    return parse


def number(text: str) -> float:
    """Reads a number; its range is for the caller to check."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"must be a number, got {text!r}")
    return value


def training_option(
    help: str, panel: str = TRAINING, least: int | None = None
) -> typer.models.OptionInfo:
    """An option of a training; a whole number where `least` is given."""
    if least is None:
        found = typer.Option(help=help, rich_help_panel=panel)
    else:
        parser = whole(least)
        found = typer.Option(help=help, rich_help_panel=panel, parser=parser, metavar="N")
    assert isinstance(found, typer.models.OptionInfo)
    return found


Target = Annotated[
    str,
    typer.Option(
        help="Target model: mini (bundled), smollm2 (see `adaeagle fetch`), a folder, a .gguf "
        "file, or a Hugging Face id.",
        rich_help_panel=MODELS,
    ),
]
Drafter = Annotated[
    str | None,
    typer.Option(
        help="A drafter such as ngram(n_max=3), see adaeagle drafters; or the name of a draft "
        "model: mini (bundled EAGLE head), mini-lm (bundled LM), a folder or a Hugging Face id. "
        "Default: the head bundled with the target.",
        metavar="SPEC",
        rich_help_panel=MODELS,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, ... Default: cuda if any.", rich_help_panel=MODELS),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16 or float16. Default: the checkpoint's own.",
        rich_help_panel=MODELS,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Number of CPU threads. Default: as torch chooses.",
        parser=whole(1),
        metavar="N",
        rich_help_panel=MODELS,
    ),
]
Kernels = Annotated[
    str,
    typer.Option(
        help="Matrix kernels on a CPU: torch, onednn, or auto, the faster one for each shape.",
        rich_help_panel=MODELS,
    ),
]
Prompts = Annotated[
    str,
    typer.Option(
        help="JSON Lines with id, category, turns (or token_ids), or the bundled set mini.",
        rich_help_panel=TEXT,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        help="Use at most this many prompts, taken from each source (or category) in turn.",
        parser=whole(1),
        metavar="N",
        rich_help_panel=TEXT,
    ),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(
        help="Maximum number of tokens of an answer.",
        parser=whole(1),
        metavar="N",
        rich_help_panel=TEXT,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        help="Sampling temperature; 0 always takes the most likely token.",
        parser=number,
        metavar="NUMBER",
        rich_help_panel=TEXT,
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        help="Sample from the most likely tokens whose probabilities sum to this.",
        parser=number,
        metavar="NUMBER",
        rich_help_panel=TEXT,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        help="Sample from this many of the most likely tokens; 0: from all.",
        parser=whole(0),
        metavar="N",
        rich_help_panel=TEXT,
    ),
]
Sampling = Annotated[
    str,
    typer.Option(
        help="How drafts are accepted above temperature 0: rejection or coupled.",
        rich_help_panel=TEXT,
    ),
]
Seed = Annotated[
    int,
    typer.Option(help="Random seed.", parser=whole(0), metavar="N", rich_help_panel=TEXT),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the results; the same command resumes an interrupted run there.",
        rich_help_panel=RUN,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print only one line of JSON to stdout.", rich_help_panel=RUN),
]

# Of a training, as Lightning takes them.
Accelerator = Annotated[str, training_option("Kind of device: auto, cpu, gpu, ...", DEVICES)]
Devices = Annotated[str, training_option("Number of devices, or auto.", DEVICES)]
NumNodes = Annotated[int, training_option("Number of machines.", DEVICES, least=1)]
Strategy = Annotated[
    str, training_option("Strategy for several devices: auto, ddp, fsdp, ...", DEVICES)
]
Precision = Annotated[str, training_option("Precision: 32-true, bf16-mixed, ...", DEVICES)]
Logger = Annotated[str, training_option("csv, or tensorboard for that beside it.", RUN)]
Resume = Annotated[bool, training_option("Continue from the last checkpoint in the folder.")]
