"""`adaeagle train-predictor`: what learns from a trace how much to draft."""

import contextlib
import json
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands import options
from experiments.errors import InputError, argument

if TYPE_CHECKING:
    from experiments.runs.train_predictor import TrainPredictorSettings

EXAMPLE = """Example:

adaeagle train-predictor --trace runs/trace --kind "ldlp(labels='dp')" --out runs/ldlp

The folder is the predictor: adaeagle replay runs/trace --policies "ldlp(predictor='runs/ldlp')".
The same command resumes there what was interrupted."""

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


def train_predictor(
    trace: Annotated[Path, _option("Folder of a complete trace.", options.TEXT)],
    out: Annotated[
        Path, _option("Folder of everything this writes; the predictor in the end.", options.RUN)
    ],
    kind: Annotated[
        str,
        typer.Option(
            help="A registered predictor, with arguments if need be: ldlp, or "
            '"specdec_pp(rejected_weight=3.0)"; a name that is not known lists them.',
            metavar="SPEC",
            rich_help_panel=TRAINING,
        ),
    ] = "ldlp",
    split: Annotated[
        str,
        _option(
            "tune: the trace's prompts for tuning alone; all: every prompt of a trace that nothing "
            "is ever tested on.",
            options.TEXT,
        ),
    ] = "tune",
    cost: Annotated[
        Path | None,
        _option(
            "Cost table of `adaeagle profile`, for labels that need one. Default: cost.json in "
            "the trace's folder.",
            options.TEXT,
        ),
    ] = None,
    target: Annotated[
        str | None,
        _option("Where the trace's target is now, if not where it was.", options.MODELS),
    ] = None,
    validation_share: Annotated[
        float, _option("Of the prompts for tuning; those for the test are never read.")
    ] = 0.2,
    max_steps: Annotated[int, _option("Optimiser steps.", least=1)] = 2000,
    batch_size: Annotated[int, _option("Examples a process and step.", least=1)] = 128,
    learning_rate: Annotated[float, _option("AdamW's, at its highest.")] = 1e-3,
    weight_decay: Annotated[float, _option("AdamW's.")] = 0.01,
    warmup_steps: Annotated[int, _option("Of the learning rate.", least=0)] = 0,
    patience: Annotated[
        int, _option("Validations without a better loss that end training.", least=1)
    ] = 5,
    checkpoint_every: Annotated[
        int, _option("Steps between validations, and checkpoints.", least=1)
    ] = 100,
    seed: options.Seed = 0,
    resume: Annotated[bool, _option("Go on from the folder's last checkpoint.")] = True,
    accelerator: Annotated[str, _option("auto, cpu, gpu, ...", DEVICES)] = "auto",
    devices: Annotated[str, _option("auto or how many.", DEVICES)] = "auto",
    num_nodes: Annotated[int, _option("Machines.", DEVICES, least=1)] = 1,
    strategy: Annotated[str, _option("auto, ddp, fsdp, ...", DEVICES)] = "auto",
    precision: Annotated[str, _option("32-true, bf16-mixed, ...", DEVICES)] = "32-true",
    as_json: options.Json = False,
) -> None:
    """Train a predictor of how much of a draft will be accepted, on a recorded trace."""
    given = {key: value for key, value in locals().items() if key != "as_json"}
    given["devices"] = int(devices) if devices.isdecimal() else devices

    from experiments.runs.train_predictor import TrainPredictorSettings

    with _settings_blamed(given):
        settings = TrainPredictorSettings(**given)
    found = train(settings)
    if found is not None:
        print(json.dumps(found))


@contextlib.contextmanager
def _settings_blamed(names: Container[str]) -> Iterator[None]:
    """An error that begins with the name of a setting is told of the option."""
    try:
        yield
    except ValueError as error:
        name, _, rule = str(error).partition(" ")
        if name not in names:
            raise
        raise InputError(f"--{name.replace('_', '-')} {rule}") from error


def train(settings: "TrainPredictorSettings") -> dict[str, object] | None:
    """What the training found; None in the processes that help the first.

    Raises:
        InputError: a setting cannot be used, or the trace cannot teach the predictor.
    """
    import lightning
    from lightning.pytorch.utilities import rank_zero_only

    from adaeagle.cost.model import CostModel
    from adaeagle.trace.folder import TraceFolder
    from experiments.commands.models import silence
    from experiments.runs.train_predictor import TrainPredictorSettings, make_predictor
    from experiments.runs.train_predictor import train_predictor as train_it

    silence()
    with argument("--kind", settings.kind):
        make_predictor(settings.kind)
    with argument("--trace", str(settings.trace), errors=(OSError, ValueError)):
        TraceFolder.open(settings.trace)
    if settings.cost is not None:
        with argument("--cost", str(settings.cost), errors=(OSError, ValueError)):
            CostModel.load(settings.cost)
    with argument("--out", str(settings.out), "a folder that can be written", OSError):
        settings.out.mkdir(parents=True, exist_ok=True)
    chosen = {name: getattr(settings, name) for name in LIGHTNING}
    shown = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in chosen.items())
    # Lightning talks on stdout, which is for the result.
    with contextlib.redirect_stdout(sys.stderr):
        with argument("the devices", shown):
            lightning.Trainer(**chosen, logger=False, enable_checkpointing=False)
        try:
            # All else has been checked: what is refused from here on is the trace.
            with (
                argument("--trace", str(settings.trace), errors=(OSError, ValueError)),
                _settings_blamed(TrainPredictorSettings.__slots__),
            ):
                found = train_it(settings)
        except SystemExit as stopped:  # how Lightning ends after Ctrl-C
            raise KeyboardInterrupt from stopped
    is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    return found if is_first else None
