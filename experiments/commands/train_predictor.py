"""`adaeagle train-predictor`: what learns from a trace how much to draft."""

from pathlib import Path
from typing import Annotated

import typer

from experiments import options
from experiments.options import TRAINING, training_option

EXAMPLE = """Example:

adaeagle train-predictor --trace runs/trace --kind "ldlp(labels='dp')" --out runs/ldlp

The folder is the predictor: adaeagle replay runs/trace --policies "ldlp(predictor='runs/ldlp')".
The same command resumes there what was interrupted; with more --max-steps it goes on with what
was finished."""


def train_predictor(
    trace: Annotated[Path, training_option("Folder of a complete trace.", options.TEXT)],
    out: Annotated[
        Path, training_option("Folder for all output; it becomes the predictor.", options.RUN)
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
        training_option(
            "tune: the trace's prompts for tuning alone; all: every prompt of a trace that nothing "
            "is ever tested on.",
            options.TEXT,
        ),
    ] = "tune",
    cost: Annotated[
        Path | None,
        training_option(
            "Cost table of `adaeagle profile`, for labels that need one. Default: cost.json in "
            "the trace's folder.",
            options.TEXT,
        ),
    ] = None,
    target: Annotated[
        str | None,
        training_option("Target model of the trace, if it has moved since.", options.MODELS),
    ] = None,
    validation_share: Annotated[
        float,
        training_option(
            "Share of the tuning prompts used for validation; test prompts are never read."
        ),
    ] = 0.2,
    max_steps: Annotated[int, training_option("Number of optimiser steps.", least=1)] = 2000,
    batch_size: Annotated[int, training_option("Examples per process and step.", least=1)] = 128,
    learning_rate: Annotated[float, training_option("Peak learning rate of AdamW.")] = 1e-3,
    weight_decay: Annotated[float, training_option("Weight decay of AdamW.")] = 0.01,
    warmup_steps: Annotated[
        int, training_option("Warm-up steps of the learning rate.", least=0)
    ] = 0,
    patience: Annotated[
        int, training_option("Stop after this many validations without a better loss.", least=1)
    ] = 5,
    checkpoint_every: Annotated[
        int, training_option("Steps between validations and checkpoints.", least=1)
    ] = 100,
    seed: options.Seed = 0,
    resume: options.Resume = True,
    logger: options.Logger = "csv",
    accelerator: options.Accelerator = "auto",
    devices: options.Devices = "auto",
    num_nodes: options.NumNodes = 1,
    strategy: options.Strategy = "auto",
    precision: options.Precision = "32-true",
    as_json: options.Json = False,
) -> None:
    """Train a predictor of how much of a draft will be accepted, on a recorded trace."""
    given = {key: value for key, value in locals().items() if key != "as_json"}
    given["devices"] = int(devices) if devices.isdecimal() else devices

    from experiments.commands.show import show
    from experiments.runs.train_predictor import TrainPredictorSettings, run_checked
    from experiments.runs.training import settings_blamed

    with settings_blamed(given):
        settings = TrainPredictorSettings(**given)
    result = run_checked(settings)
    if result is not None:
        show(result, as_json=as_json)
