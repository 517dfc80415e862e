"""Options that several subcommands take, written once."""

from pathlib import Path
from typing import Annotated

import typer

MODELS, TEXT, RUN = "Models", "Text", "Run"

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
        help="Draft model: mini (bundled EAGLE head), mini-lm (bundled small model), a folder or a "
        "Hugging Face id. Default: mini where the target is mini.",
        rich_help_panel=MODELS,
    ),
]
DrafterKind = Annotated[
    str,
    typer.Option(
        help="eagle (a head on the target's features), model (a small causal LM of the same "
        "vocabulary), or auto: read from the weights, for a Hugging Face id from its name.",
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
    typer.Option(help="CPU threads. Default: torch's.", min=1, rich_help_panel=MODELS),
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
        min=1,
        rich_help_panel=TEXT,
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option(help="Most tokens of an answer.", min=1, rich_help_panel=TEXT)
]
Temperature = Annotated[
    float, typer.Option(help="0: the likeliest token.", min=0.0, rich_help_panel=TEXT)
]
TopP = Annotated[
    float,
    typer.Option(help="Keep the likeliest tokens of this probability.", rich_help_panel=TEXT),
]
TopK = Annotated[
    int, typer.Option(help="Keep so many tokens; 0: all.", min=0, rich_help_panel=TEXT)
]
Sampling = Annotated[
    str,
    typer.Option(help="How drafts are accepted above temperature 0.", rich_help_panel=TEXT),
]
Seed = Annotated[int, typer.Option(help="Of everything random.", min=0, rich_help_panel=TEXT)]
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
