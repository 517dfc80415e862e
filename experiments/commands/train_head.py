"""`adaeagle train-head`: a draft model for any target, trained on the target's own text."""

from pathlib import Path
from typing import Annotated

from experiments import options
from experiments.options import training_option

EXAMPLE = """Example:

adaeagle train-head --data prompts.jsonl --kind eagle --max-steps 2000 --out runs/head

The trained model is in runs/head/final. The same command resumes there what was interrupted;
with more --max-steps it goes on with what was finished."""


def train_head(
    data: Annotated[
        Path,
        training_option(
            "JSON Lines (.jsonl, .jsonl.gz) of turns, messages or prompt.", options.TEXT
        ),
    ],
    out: Annotated[Path, training_option("Folder for all output.", options.RUN)],
    target: options.Target = "mini",
    kind: Annotated[
        str,
        training_option(
            "eagle, eagle3, medusa, or lm: a small language model of the target's vocabulary."
        ),
    ] = "eagle",
    max_steps: Annotated[int, training_option("Number of optimiser steps.", least=1)] = 100_000,
    batch_size: Annotated[int, training_option("Texts per process and step.", least=1)] = 4,
    window: Annotated[
        int, training_option("Most tokens of a text; a longer text is cut.", least=1)
    ] = 2048,
    learning_rate: Annotated[
        float | None,
        training_option(
            "Peak learning rate. Default: the paper's; 1e-3 to 3e-3 suits runs of minutes."
        ),
    ] = None,
    warmup_steps: Annotated[
        int | None, training_option("Warm-up steps of the learning rate.", least=0)
    ] = None,
    num_layers: Annotated[
        int | None, training_option("Layers of the draft model.", least=1)
    ] = None,
    draft_vocab_size: Annotated[
        int | None,
        training_option("Size of the head's draft vocabulary: the most frequent tokens.", least=1),
    ] = None,
    unroll: Annotated[
        int | None,
        training_option(
            "Steps of a draft that a head is trained on, for medusa the number of heads. "
            "Default: 1, 7 and 3 for eagle, eagle3 and medusa.",
            least=1,
        ),
    ] = None,
    token_weight: Annotated[
        float, training_option("Weight of the cross-entropy beside an EAGLE head's feature loss.")
    ] = 0.1,
    own_output: Annotated[
        bool,
        training_option("Give each of Medusa's heads an output layer, in place of the target's."),
    ] = False,
    max_new_tokens: options.MaxNewTokens = 256,
    max_turns: Annotated[
        int, training_option("Most turns answered in a conversation.", least=1)
    ] = 2,
    generation_batch_size: Annotated[
        int, training_option("Prompts that the target answers side by side.", least=1)
    ] = 32,
    store_features: Annotated[
        bool,
        training_option(
            "Write the target's features to disk once, instead of computing them in every epoch."
        ),
    ] = False,
    limit: Annotated[
        int | None, training_option("Use at most this many conversations of the data.", least=1)
    ] = None,
    seed: options.Seed = 0,
    checkpoint_every: Annotated[
        int, training_option("Steps between checkpoints and validations.", least=1)
    ] = 1000,
    resume: options.Resume = True,
    logger: options.Logger = "csv",
    dtype: options.Dtype = None,
    accelerator: options.Accelerator = "auto",
    devices: options.Devices = "auto",
    num_nodes: options.NumNodes = 1,
    strategy: options.Strategy = "auto",
    precision: options.Precision = "32-true",
    as_json: options.Json = False,
) -> None:
    """Train a draft head, or a small language model, for a target."""
    given = {key: value for key, value in locals().items() if key != "as_json"}
    given["devices"] = int(devices) if devices.isdecimal() else devices

    from experiments.commands.show import show
    from experiments.runs.train_head import TrainHeadSettings, run_checked
    from experiments.runs.training import settings_blamed

    with settings_blamed(given):
        settings = TrainHeadSettings(**given)
    result = run_checked(settings)
    if result is not None:
        show(result, as_json=as_json)
