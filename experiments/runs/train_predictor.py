"""Trains a predictor on a trace: `adaeagle train-predictor`.

The folder gets `settings.json` first, checkpoints and a log of the losses while a network is
trained, and at the end `config.json` and `model.safetensors`, which are the predictor, and
`result.json`.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from adaeagle import Target
from adaeagle.bench import provenance
from adaeagle.cost.model import CostModel
from adaeagle.data.files import difference
from adaeagle.data.splits import TUNE
from adaeagle.identity import ModelIdentity
from adaeagle.models.fingerprint import fingerprint
from adaeagle.registry import PREDICTORS, build
from adaeagle.trace.folder import TraceFolder
from experiments.errors import argument
from experiments.runs.models import silence
from experiments.runs.training import check_out, run_lightning, settings_blamed
from predictors.base import FittedPredictor, Metadata, Predictor, TrainedPredictor
from predictors.data.trace_dataset import TraceExamples, read_examples, split_texts, trace_data
from predictors.training.predictor import PredictorTraining

ALL = "all"
"""Of a trace whose prompts are all for training."""

MEASURED = 8192
"""Examples that scales of inputs are learned from."""


@dataclass(frozen=True, slots=True)
class TrainPredictorSettings:
    """What to train, on what, and how.

    Args:
        kind: spec of a registered predictor, e.g. "ldlp(labels='dp')".
        trace: folder of a trace.
        split: tune: its prompts for tuning are used, no others; all: every prompt, of a trace that
            nothing is ever tested on.
        partial: take what there is of a trace that is not complete.
        out: folder of everything this writes; it is the predictor's in the end.
        cost: file of a cost table, for labels that depend on what rounds cost; None: `cost.json` in
            the trace's folder, if there is one.
        target: the trace's target, for predictors that read its embedding; None: as the trace
            calls it.
        validation_share: of the prompts for tuning.
        max_steps: optimiser steps.
        batch_size: examples a process and step.
        learning_rate: AdamW's, at its highest. AdaEAGLE's is 5e-5, for half a million steps more.
        weight_decay: AdamW's.
        warmup_steps: of the learning rate.
        patience: validations without a better loss after which training ends.
        max_seconds: the first validation after so long ends training; None: time does not matter.
        checkpoint_every: steps between validations; the best weights and the last are kept.
        seed: of prompts, weights, order and dropout.
        resume: go on from the last checkpoint of `out`.
        accelerator: Lightning's.
        devices: Lightning's.
        num_nodes: Lightning's.
        strategy: Lightning's.
        precision: Lightning's.
    """

    kind: str
    trace: Path
    out: Path
    split: str = TUNE
    partial: bool = False
    cost: Path | None = None
    target: str | None = None
    validation_share: float = 0.2
    max_steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 0
    patience: int = 5
    max_seconds: float | None = None
    checkpoint_every: int = 100
    seed: int = 0
    resume: bool = True
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "patience", "checkpoint_every", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.split not in (TUNE, ALL):
            raise ValueError(f"split must be {TUNE} or {ALL}, got {self.split!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ValueError(
                f"warmup_steps must be in 0..{self.max_steps - 1}, got {self.warmup_steps}"
            )
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share must be in (0, 1), got {self.validation_share}")

    def to_json(self) -> dict[str, Any]:
        """What decides the result: not the folder, nor the time limit, nor whether it was begun."""
        found = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self).items()}
        left_out = ("out", "resume", "max_seconds", "partial")
        return {name: found[name] for name in found if name not in left_out}


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
    done = _finished(settings)
    if done is not None:
        return done
    predictor = make_predictor(settings.kind)
    folder = TraceFolder.open(settings.trace)
    cost = _cost(settings) if predictor.needs_cost else None
    split = None if settings.split == ALL else TUNE
    texts, held = split_texts(folder, settings.validation_share, split, partial=settings.partial)
    models = folder.manifest.models(texts[0].features.shape[1])
    embedding = _embedding(settings, models) if predictor.needs_embedding else None
    L.seed_everything(settings.seed, verbose=False)
    predictor.prepare(Metadata(models, folder.manifest.digest, settings.split), embedding)
    training, validation = (
        read_examples(part, models.vocab_size, predictor, cost) for part in (texts, held)
    )
    if isinstance(predictor, TrainedPredictor):
        found = _train(predictor, training, validation, settings)
    else:
        assert isinstance(predictor, FittedPredictor)
        predictor.fit(training.whole(), settings.seed)
        found = _evaluate(predictor, validation)
    found |= {
        "num_prompts": [len({text.prompt_id for text in part}) for part in (texts, held)],
        "num_examples": [len(training), len(validation)],
    }
    about = {"settings": settings.to_json(), "versions": provenance.versions(), **found}
    predictor.metadata = replace(predictor.metadata, training={**about, "git": provenance.git()})
    predictor.save(settings.out)
    result = {
        "kind": predictor.kind,
        "predictor": str(settings.out),
        **found,
        "seconds": round(time.perf_counter() - started, 1),
    }
    _write_json(settings.out / "result.json", result)
    return result


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
    check_out(settings)

    def train() -> dict[str, Any]:
        # All else has been checked: what is refused from here on is the trace.
        with (
            argument("--trace", str(settings.trace), errors=(OSError, ValueError)),
            settings_blamed(TrainPredictorSettings.__slots__),
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


def _finished(settings: TrainPredictorSettings) -> dict[str, Any] | None:
    """The result of the same run, if it came to its end; else `out` is made ready for it."""
    settings.out.mkdir(parents=True, exist_ok=True)
    given, path = settings.to_json(), settings.out / "settings.json"
    if settings.resume and path.is_file():
        found = json.loads(path.read_bytes())
        if found != given:
            raise ValueError(
                f"out must be a folder without another run, {settings.out} holds one: "
                f"{difference(found, given)}"
            )
        if (settings.out / "result.json").is_file():
            result: dict[str, Any] = json.loads((settings.out / "result.json").read_bytes())
            return result
    _write_json(path, given)
    return None


def _cost(settings: TrainPredictorSettings) -> CostModel:
    beside = settings.trace / "cost.json"
    if settings.cost is None and not beside.is_file():
        raise ValueError(f"cost must be given for {settings.kind}, got none, nor is there {beside}")
    return CostModel.load(settings.cost or beside)


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


def _train(
    predictor: TrainedPredictor,
    training: TraceExamples,
    validation: TraceExamples,
    settings: TrainPredictorSettings,
) -> dict[str, Any]:
    """Trains until the validation loss no longer falls; the predictor has the best weights then."""
    generator = torch.Generator().manual_seed(settings.seed)
    sample = torch.randperm(len(training), generator=generator)[:MEASURED]
    predictor.measure(training.__getitems__(sample.tolist()))
    module = PredictorTraining(
        predictor,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        seed=settings.seed,
    )
    data = trace_data(
        training,
        validation,
        batch_size=settings.batch_size,
        max_steps=settings.max_steps,
        seed=settings.seed,
    )
    trainer, best = _trainer(settings)
    last = settings.out / "checkpoints" / "last.ckpt"
    is_resumed = settings.resume and last.exists()
    trainer.fit(module, datamodule=data, ckpt_path=last if is_resumed else None)
    steps = trainer.global_step
    [metrics] = trainer.validate(
        module, datamodule=data, ckpt_path=best.best_model_path, verbose=False
    )
    return {"steps": steps, **{name: round(float(value), 6) for name, value in metrics.items()}}


def _trainer(settings: TrainPredictorSettings) -> tuple[L.Trainer, ModelCheckpoint]:
    best = ModelCheckpoint(
        settings.out / "checkpoints",
        filename="best",
        monitor="val_loss",
        save_top_k=1,
        save_last=True,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    trainer = L.Trainer(
        max_steps=settings.max_steps,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=settings.strategy,
        precision=settings.precision,  # type: ignore[arg-type]  # Lightning checks it
        gradient_clip_val=1.0,
        val_check_interval=min(settings.checkpoint_every, settings.max_steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # `StepBatches` divides the batches itself
        callbacks=[
            EarlyStopping("val_loss", patience=settings.patience),
            best,
            *([] if settings.max_seconds is None else [StopInTime(settings.max_seconds)]),
            TQDMProgressBar(refresh_rate=20),
        ],
        logger=CSVLogger(settings.out, name="log"),
        log_every_n_steps=min(20, settings.max_steps),
        enable_model_summary=False,
    )
    return trainer, best


def _evaluate(predictor: Predictor, validation: TraceExamples) -> dict[str, Any]:
    """A fitted predictor on the prompts it was not fitted to."""
    metrics = predictor.metrics(validation.whole())
    return {f"val_{name}": round(float(value), 6) for name, value in metrics.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
