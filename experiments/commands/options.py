"""Options that several subcommands take, written once."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

MODELS, TEXT, RUN = "Models", "Text", "Run"


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


Target = Annotated[
    str,
    typer.Option(
        help="Model whose text it is: mini (bundled), a folder, or a Hugging Face id.",
        rich_help_panel=MODELS,
    ),
]
Drafter = Annotated[
    str | None,
    typer.Option(
        help="A drafter such as ngram(n_max=3), see adaeagle drafters; or the name of a draft "
        "model: mini (bundled EAGLE head), mini-lm (bundled LM), a folder or a Hugging Face id. "
        "Default: mini where the target is mini.",
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
        help="CPU threads. Default: torch's.",
        parser=whole(1),
        metavar="N",
        rich_help_panel=MODELS,
    ),
]
Kernels = Annotated[
    str,
    typer.Option(
        help="What multiplies on a CPU: torch, onednn, or auto, the quicker one of each shape.",
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
        help="At most so many prompts, taken from each source (or category) in turn.",
        parser=whole(1),
        metavar="N",
        rich_help_panel=TEXT,
    ),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(
        help="Most tokens of an answer.", parser=whole(1), metavar="N", rich_help_panel=TEXT
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        help="0: the likeliest token.", parser=number, metavar="NUMBER", rich_help_panel=TEXT
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        help="Keep the likeliest tokens of this probability together.",
        parser=number,
        metavar="NUMBER",
        rich_help_panel=TEXT,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        help="Keep so many of the likeliest tokens; 0: all.",
        parser=whole(0),
        metavar="N",
        rich_help_panel=TEXT,
    ),
]
Sampling = Annotated[
    str,
    typer.Option(help="How drafts are accepted above temperature 0.", rich_help_panel=TEXT),
]
Seed = Annotated[
    int,
    typer.Option(help="Of everything random.", parser=whole(0), metavar="N", rich_help_panel=TEXT),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the results; the same command resumes there what was interrupted.",
        rich_help_panel=RUN,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Only JSON on stdout, one line.", rich_help_panel=RUN),
]
