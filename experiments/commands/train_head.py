"""`adaeagle train-head`: a draft model for any target, trained on the target's own text."""

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands import options
from experiments.errors import InputError, argument

if TYPE_CHECKING:
    from experiments.runs.train_head import TrainHeadSettings

EXAMPLE = """Example:

adaeagle train-head --data prompts.jsonl --kind eagle --max-steps 2000 --out runs/head

The trained model is in runs/head/final; the same command resumes there what was interrupted."""

TRAINING, DEVICES = "Training", "Devices, as in Lightning"
LIGHTNING = ("accelerator", "devices", "num_nodes", "strategy", "precision")


def _option(help: str, panel: str = TRAINING, least: int | None = None) -> typer.models.OptionInfo:
    """An option of this command; a whole number where `least` is given."""
    if least is None:
        found = typer.Option(help=help, rich_help_panel=panel)
    else:
        parser = options.whole(least)
        found = typer.Option(help=help, rich_help_panel=panel, parser=parser, metavar="N")
    assert isinstance(found, typer.models.OptionInfo)
    return found


def train_head(
    data: Annotated[
        Path, _option("JSON Lines (.jsonl, .jsonl.gz) of turns, messages or prompt.", options.TEXT)
    ],
    out: Annotated[Path, _option("Folder of everything this writes.", options.RUN)],
    target: options.Target = "mini",
    kind: Annotated[
        str, _option("eagle, eagle3, or lm: a small language model of the target's vocabulary.")
    ] = "eagle",
    max_steps: Annotated[int, _option("Optimiser steps.", least=1)] = 100_000,
    batch_size: Annotated[int, _option("Texts a process and step.", least=1)] = 4,
    window: Annotated[int, _option("Longest text, in tokens.", least=1)] = 2048,
    learning_rate: Annotated[
        float | None, _option("Default: the paper's; 1e-3 to 3e-3 suits heads of minutes.")
    ] = None,
    warmup_steps: Annotated[int | None, _option("Of the learning rate.", least=0)] = None,
    num_layers: Annotated[int | None, _option("Of the draft model.", least=1)] = None,
    draft_vocab_size: Annotated[
        int | None, _option("Tokens that a head drafts from, the most frequent ones.", least=1)
    ] = None,
    unroll: Annotated[
        int | None,
        _option("Steps of a draft that a head is trained on; default: the paper's.", least=1),
    ] = None,
    token_weight: Annotated[
        float, _option("Of the cross-entropy beside an EAGLE head's feature loss.")
    ] = 0.1,
    max_new_tokens: options.MaxNewTokens = 256,
    max_turns: Annotated[int, _option("Answered turns of a conversation.", least=1)] = 2,
    generation_batch_size: Annotated[
        int, _option("Prompts the target answers side by side.", least=1)
    ] = 32,
    store_features: Annotated[
        bool, _option("Write the target's features once, for disk in place of time.")
    ] = False,
    limit: Annotated[int | None, _option("Conversations taken of the data.", least=1)] = None,
    seed: options.Seed = 0,
    checkpoint_every: Annotated[
        int, _option("Steps between checkpoints, and validations.", least=1)
    ] = 1000,
    resume: Annotated[bool, _option("Go on from the folder's last checkpoint.")] = True,
    dtype: options.Dtype = None,
    accelerator: Annotated[str, _option("auto, cpu, gpu, ...", DEVICES)] = "auto",
    devices: Annotated[str, _option("auto or how many.", DEVICES)] = "auto",
    num_nodes: Annotated[int, _option("Machines.", DEVICES, least=1)] = 1,
    strategy: Annotated[str, _option("auto, ddp, fsdp, ...", DEVICES)] = "auto",
    precision: Annotated[str, _option("32-true, bf16-mixed, ...", DEVICES)] = "32-true",
    as_json: options.Json = False,
) -> None:
    """Train a draft head, or a small language model, for a target."""
    given = {key: value for key, value in locals().items() if key != "as_json"}
    given["devices"] = int(devices) if devices.isdecimal() else devices

    from experiments.runs.train_head import TrainHeadSettings

    try:
        settings = TrainHeadSettings(**given)
    except ValueError as error:  # it begins with the name of a setting
        name, _, rule = str(error).partition(" ")
        raise InputError(f"--{name.replace('_', '-')} {rule}") from error
    found = _train(settings)
    if found is not None:
        print(json.dumps(found))


def _train(settings: "TrainHeadSettings") -> dict[str, object] | None:
    """What the training found; None in the processes that help the first."""
    import lightning
    from lightning.pytorch.utilities import rank_zero_only

    from experiments.commands.models import load_target, silence
    from experiments.runs.train_head import train_head as train
    from predictors.draft_models.conversations import read_records

    silence()
    with argument("--data", str(settings.data)):
        read_records(settings.data, settings.limit)
    with argument("--out", str(settings.out), "a folder that can be written", OSError):
        settings.out.mkdir(parents=True, exist_ok=True)
    chosen = {name: getattr(settings, name) for name in LIGHTNING}
    shown = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in chosen.items())
    # Lightning talks on stdout, which is for the result.
    with contextlib.redirect_stdout(sys.stderr):
        with argument("the devices", shown):
            lightning.Trainer(**chosen, logger=False, enable_checkpointing=False)
        target = load_target(settings.target, "cpu", settings.dtype)
        try:
            # All else has been checked: what is refused from here on is the text.
            with argument("--data", str(settings.data), errors=ValueError):
                found = train(settings, target)
        except SystemExit as stopped:  # how Lightning ends after Ctrl-C
            raise KeyboardInterrupt from stopped
    is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    return found if is_first else None
