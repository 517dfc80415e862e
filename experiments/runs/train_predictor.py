"""Trains a predictor on a trace: `adaeagle train-predictor`.

The folder is what `experiments.runs.training` says; at the end it gets `config.json` and
`model.safetensors`, which are the predictor.
"""

import time
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from adaeagle import Target
from adaeagle.bench import provenance
from adaeagle.cost.model import CostModel
from adaeagle.data.splits import TUNE
from adaeagle.identity import ModelIdentity
from adaeagle.models.fingerprint import fingerprint
from adaeagle.ranges import above, at_least
from adaeagle.registry import PREDICTORS, build
from adaeagle.trace.folder import TraceFolder
from experiments.errors import argument
from experiments.runs.models import silence
from experiments.runs.training import (
    TrainingFolder,
    TrainingSettings,
    check_out,
    fit,
    run_lightning,
    settings_blamed,
    sha256_of,
)
from predictors.base import FittedPredictor, Metadata, Predictor, TrainedPredictor
from predictors.data.step_batches import StepData
from predictors.data.trace_dataset import TraceExamples, read_examples, split_texts
from predictors.training.constant import constant_loss
from predictors.training.optimised import Optimisation
from predictors.training.predictor import PredictorTraining

ALL = "all"
"""Of a trace whose prompts are all for training."""

MEASURED = 8192
"""Examples that scales of inputs are learned from."""


@dataclass(frozen=True, slots=True)
class TrainPredictorSettings(TrainingSettings):
    """What to train, on what, and how; what is not told here is told by `TrainingSettings`.

    Args:
        kind: spec of a registered predictor, e.g. "ldlp(labels='dp')".
        trace: folder of a trace.
        out: folder of everything this writes; it is the predictor's in the end.
        split: tune: its prompts for tuning are used, no others; all: every prompt, of a trace that
            nothing is ever tested on.
        partial: take what there is of a trace that is not complete.
        cost: file of a cost table, for labels that depend on what rounds cost; None: `cost.json` in
            the trace's folder, if there is one.
        target: the trace's target, for predictors that read its embedding; None: as the trace
            calls it.
        validation_share: of the prompts for tuning.
        learning_rate: AdamW's, at its highest. AdaEAGLE's is 5e-5, for half a million steps more.
        weight_decay: AdamW's.
        warmup_steps: of the learning rate.
        patience: validations without a better loss after which training ends.
        max_seconds: the first validation after so long ends training; None: time does not matter.
        checkpoint_every: steps between validations; the best weights and the last are kept.
    """

    kind: str
    trace: Path
    out: Path
    _: KW_ONLY
    split: str = TUNE
    partial: bool = False
    cost: Path | None = None
    target: str | None = None
    validation_share: float = 0.2
    max_steps: int = 2000
    batch_size: int = 128
    checkpoint_every: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 0
    patience: int = 5
    max_seconds: float | None = None

    unessential = (*TrainingSettings.unessential, "max_seconds", "partial")

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        at_least(1, patience=self.patience)
        if self.split not in (TUNE, ALL):
            raise ValueError(f"split must be {TUNE} or {ALL}, got {self.split!r}")
        above(0, learning_rate=self.learning_rate)
        at_least(0, weight_decay=self.weight_decay)
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ValueError(
                f"warmup_steps must be in 0..{self.max_steps - 1}, got {self.warmup_steps}"
            )
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share must be in (0, 1), got {self.validation_share}")


class StopInTime(L.Callback):
    """Ends training at the first validation after so many seconds: then weights are kept."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        is_late = trainer.strategy.broadcast(time.monotonic() >= self.end)  # all stop together
        trainer.should_stop = trainer.should_stop or is_late


def train_predictor(settings: TrainPredictorSettings) -> dict[str, Any]:
    """Trains a predictor and saves it; of a run that is finished, the result is returned.

    Raises:
        ValueError: the trace cannot teach it, or `out` holds another run.
        OSError: a file cannot be read or written.
    """
    started = time.perf_counter()
    predictor = make_predictor(settings.kind)
    trace = TraceFolder.open(settings.trace)
    cost = _cost(settings) if predictor.needs_cost else None
    given = {
        "trace_sha256": trace.manifest.digest,
        "cost_sha256": None if cost is None else sha256_of(_cost_file(settings)),
    }
    with TrainingFolder(settings.out, settings, **given) as folder:
        if folder.result is not None:
            return folder.result
        found = _train_on(trace, predictor, cost, settings)
        predictor.save(settings.out)
        return folder.finish(
            {
                "kind": predictor.kind,
                "predictor": str(settings.out),
                **found,
                "seconds": round(time.perf_counter() - started, 1),
            }
        )


def _train_on(
    trace: TraceFolder,
    predictor: Predictor,
    cost: CostModel | None,
    settings: TrainPredictorSettings,
) -> dict[str, Any]:
    """Makes the predictor's layers and has them learn from the trace."""
    split = None if settings.split == ALL else TUNE
    texts, held = split_texts(trace, settings.validation_share, split, partial=settings.partial)
    models = trace.manifest.models(texts[0].features.shape[1])
    embedding = _embedding(settings, models) if predictor.needs_embedding else None
    L.seed_everything(settings.seed, verbose=False)
    predictor.prepare(Metadata(models, trace.manifest.digest, settings.split), embedding)
    training, validation = (
        read_examples(part, models.vocab_size, predictor, cost) for part in (texts, held)
    )
    if isinstance(predictor, TrainedPredictor):
        found = _fit_network(predictor, training, validation, settings)
    else:
        assert isinstance(predictor, FittedPredictor)
        predictor.fit(training.whole(), settings.seed)
        metrics = predictor.metrics(validation.whole())
        found = {f"val_{name}": round(float(value), 6) for name, value in metrics.items()}
    found |= {
        "num_prompts": [len({text.prompt_id for text in part}) for part in (texts, held)],
        "num_examples": [len(training), len(validation)],
    }
    about = {"settings": settings.to_json(), "versions": provenance.versions(), **found}
    predictor.metadata = replace(predictor.metadata, training={**about, "git": provenance.git()})
    return found


def run_checked(settings: TrainPredictorSettings) -> dict[str, Any] | None:
    """What the training found, after all its options were checked.

    Returns:
        The result; None in the processes that help the first.

    Raises:
        InputError: a setting cannot be used, or the trace cannot teach the predictor.
    """
    silence()
    with argument("--kind", settings.kind):
        make_predictor(settings.kind)
    with argument("--trace", str(settings.trace), errors=(OSError, ValueError)):
        TraceFolder.open(settings.trace)
    if settings.cost is not None:
        with argument("--cost", str(settings.cost), errors=(OSError, ValueError)):
            CostModel.load(settings.cost)
    check_out(settings.out, settings.file)

    def train() -> dict[str, Any]:
        # All else has been checked: what is refused from here on is the trace.
        with (
            argument("--trace", str(settings.trace), errors=(OSError, ValueError)),
            settings_blamed({field.name for field in fields(settings)}),
        ):
            return train_predictor(settings)

    return run_lightning(settings, train)


def make_predictor(spec: str) -> Predictor:
    """The predictor that a spec describes, without layers.

    Raises:
        ValueError: nothing of that name is registered, or an argument does not fit.
    """
    predictor = build(spec, PREDICTORS)
    if not isinstance(predictor, Predictor):
        raise ValueError(f"kind must describe a predictor, got {spec!r}")
    return predictor


def _cost_file(settings: TrainPredictorSettings) -> Path:
    return settings.cost or settings.trace / "cost.json"


def _cost(settings: TrainPredictorSettings) -> CostModel:
    file = _cost_file(settings)
    if settings.cost is None and not file.is_file():
        raise ValueError(f"cost must be given for {settings.kind}, got none, nor is there {file}")
    return CostModel.load(file)


def _embedding(settings: TrainPredictorSettings, models: ModelIdentity) -> Tensor:
    """The input embedding of the trace's target."""
    name = settings.target or models.target
    try:
        target = Target.from_pretrained(name, dtype=models.dtype)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"target must be the trace's, whose embedding {settings.kind} reads, "
            f"got {name}: {error}"
        ) from error
    weights = fingerprint(target.model)
    if weights != models.target_weights:
        raise ValueError(
            f"target must be the trace's, {models.target} (weights {models.target_weights}), "
            f"got {target.name} (weights {weights})"
        )
    embedding = target.model.get_input_embeddings().weight
    assert isinstance(embedding, Tensor)
    return embedding.detach()


def _fit_network(
    predictor: TrainedPredictor,
    training: TraceExamples,
    validation: TraceExamples,
    settings: TrainPredictorSettings,
) -> dict[str, Any]:
    """Trains until the validation loss no longer falls; the predictor has the best weights then."""
    generator = torch.Generator().manual_seed(settings.seed)
    sample = torch.randperm(len(training), generator=generator)[:MEASURED]
    predictor.measure(training.__getitems__(sample.tolist()))
    optimisation = Optimisation(
        settings.max_steps,
        settings.learning_rate,
        settings.weight_decay,
        settings.warmup_steps,
        schedule="cosine",
        betas=(0.9, 0.999),
    )
    data = StepData(
        training,
        validation,
        batch_size=settings.batch_size,
        max_steps=settings.max_steps,
        seed=settings.seed,
        collate=lambda batch: batch,  # what is read as a batch is one
    )
    limits: list[L.Callback] = [EarlyStopping("val_loss", patience=settings.patience)]
    if settings.max_seconds is not None:
        limits.append(StopInTime(settings.max_seconds))
    held = validation.__getitems__(range(min(MEASURED, len(validation))))
    constant = constant_loss(predictor, held)
    _, found = fit(
        PredictorTraining(predictor, optimisation, settings.seed),
        data,
        settings,
        settings.out,
        clip=1.0,
        keep_best=True,
        callbacks=limits,
        constant=constant,
    )
    return found | {"constant_loss": round(constant, 6)}
