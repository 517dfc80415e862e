"""What all trainings do alike: settings, a folder of their own, Lightning, the learning curve.

The folder of a training:

    settings.json       what the training was told and given to read; a head's is `config.json`
    checkpoints/        where it goes on after a kill
    log/, tensorboard/  what it logged on the way
    learning_curve.png  the same as a picture
    result.json         what came out, once it has come to its end
"""

import contextlib
import csv
import hashlib
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from adaeagle.data.files import difference, write_whole
from experiments.errors import InputError, argument
from experiments.views.learning_curve import learning_curve
from experiments.views.plot_style import png
from predictors.training.callbacks import SkipNonFiniteSteps
from predictors.training.optimised import OptimisedTraining

LIGHTNING = ("accelerator", "devices", "num_nodes", "strategy", "precision")
LOGGERS = ("csv", "tensorboard")
TENSORBOARDS = ("tensorboard", "tensorboardX")
"""Packages of which one must be there for Lightning's logger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """What every training is told.

    Args:
        max_steps: optimiser steps.
        batch_size: examples a process and step.
        checkpoint_every: steps between checkpoints, and between validations.
        seed: of weights, order and what is random in a step.
        resume: go on from the last checkpoint of the folder.
        logger: "csv", or "tensorboard" for that beside it.
        accelerator: Lightning's, as are the following.
    """

    max_steps: int
    batch_size: int
    checkpoint_every: int
    seed: int = 0
    resume: bool = True
    logger: str = "csv"
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    unessential: ClassVar[tuple[str, ...]] = ("out", "resume", "logger")
    """Settings that have no say in the result."""
    file: ClassVar[str] = "settings.json"
    """Where they are kept."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "checkpoint_every", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.logger not in LOGGERS:
            raise ValueError(f"logger must be one of {', '.join(LOGGERS)}, got {self.logger!r}")
        if self.logger == "tensorboard" and not any(map(find_spec, TENSORBOARDS)):
            raise ValueError(
                "logger must be csv where TensorBoard is not installed (pip install tensorboard), "
                f"got {self.logger}"
            )

    def to_json(self) -> dict[str, Any]:
        """What decides the result."""
        found = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self).items()}
        return {name: found[name] for name in found if name not in self.unessential}


class TrainingFolder:
    """The folder of one training, which no other training and no other process may use.

    Args:
        path: made if it is not there.
        settings: of the training.
        given: what decides the result beside them, such as what a target is.

    Raises:
        ValueError: the folder holds something else, or is in use.
    """

    def __init__(self, path: Path, settings: TrainingSettings, **given: Any) -> None:
        self.path, self._file = path, path / settings.file
        self.rank, self.num_processes = processes(settings)
        self._is_new = False
        self.result: dict[str, Any] | None = None
        """What came out, where this very training has come to its end before."""
        check_own(self._file)
        path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path / ".lock")
        if self.rank == 0:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise ValueError(
                    f"out must be a folder that no other process writes to, got {path}"
                ) from None
        try:
            self._claim(settings, {**settings.to_json(), **given})
        except BaseException:
            self.close()
            raise

    def _claim(self, settings: TrainingSettings, identity: dict[str, Any]) -> None:
        identity = json.loads(json.dumps(identity))
        file, result = self._file, self.path / "result.json"
        if settings.resume and file.is_file():
            found = json.loads(file.read_bytes())
            before, found["max_steps"] = found["max_steps"], settings.max_steps
            if found != identity:
                raise ValueError(
                    f"out must be a folder without another run, {self.path} holds one: "
                    f"{difference(found, identity)}"
                )
            if before > settings.max_steps:
                raise ValueError(
                    f"max_steps must be >= {before}, what {self.path} was trained for, "
                    f"got {settings.max_steps}"
                )
            if before == settings.max_steps and result.is_file():
                self.result = json.loads(result.read_bytes())
        elif self.rank == 0:
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        if self.rank == 0 and self.result is None:
            result.unlink(missing_ok=True)
            self._is_new = not file.is_file()
            write_json(file, identity)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Writes down what came out."""
        if self.rank == 0:
            write_json(self.path / "result.json", result)
        return result

    def close(self) -> None:
        """Lets others use the folder."""
        self._lock.release()

    def __enter__(self) -> "TrainingFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        is_refused = kind is not None and issubclass(kind, ValueError)
        if is_refused and self._is_new and not (self.path / "checkpoints").exists():
            # What was wrong may be put right: nothing is trained yet that other settings spoil.
            self._file.unlink(missing_ok=True)
        self.close()


def check_own(settings: Path) -> None:
    """Refuses a folder with files that no training has put there.

    Args:
        settings: where a training would keep its settings.

    Raises:
        ValueError: it holds some.
    """
    path = settings.parent
    if settings.is_file() and "max_steps" in json.loads(settings.read_bytes()):
        return
    if not path.is_dir():
        return
    if settings.is_dir():
        raise ValueError(f"out must be a folder that can be written, {settings} is a folder")
    files = sorted(file.name for file in path.iterdir() if file.is_file())
    if files := [name for name in files if not name.startswith(".")]:
        raise ValueError(
            f"out must be a new folder or that of the same training, {path} holds {files[0]}"
        )


def fit(
    module: OptimisedTraining,
    data: L.LightningDataModule,
    settings: TrainingSettings,
    out: Path,
    *,
    clip: float,
    clip_by: Literal["norm", "value"] = "norm",
    keep_best: bool = False,
    callbacks: Sequence[L.Callback] = (),
    constant: float | None = None,
) -> tuple[L.Trainer, dict[str, float]]:
    """Trains and validates.

    Args:
        module: what is trained.
        data: what it is trained on.
        settings: how.
        out: the training's folder.
        clip: most of a gradient.
        clip_by: what of a gradient that is.
        keep_best: validate with the weights of the least `val_loss`, not with the last.
        callbacks: beside those that every training has.
        constant: validation loss of the best constant, for the learning curve.

    Returns:
        the trainer, and the number of steps with what validation found.
    """
    every = min(settings.checkpoint_every, settings.max_steps)
    best = {"filename": "best", "monitor": "val_loss", "save_on_train_epoch_end": False}
    last_alone = {"save_top_k": 0, "every_n_train_steps": every}
    saving = ModelCheckpoint(
        out / "checkpoints",
        save_last=True,
        enable_version_counter=False,
        **(best if keep_best else last_alone),
    )
    skipping = SkipNonFiniteSteps()
    trainer = L.Trainer(
        **{name: getattr(settings, name) for name in LIGHTNING},
        max_steps=settings.max_steps,
        gradient_clip_val=clip,
        gradient_clip_algorithm=clip_by,
        val_check_interval=every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # `StepBatches` divides the batches itself
        callbacks=[saving, skipping, TQDMProgressBar(refresh_rate=20), *callbacks],
        logger=_loggers(settings, out),
        log_every_n_steps=min(20, settings.max_steps),
        enable_model_summary=False,
    )
    last = out / "checkpoints" / "last.ckpt"
    is_resumed = settings.resume and last.exists()
    trainer.fit(module, datamodule=data, ckpt_path=last if is_resumed else None)
    steps = trainer.global_step
    if not keep_best:
        trainer.save_checkpoint(last)
    best_path = saving.best_model_path if keep_best else None
    [metrics] = trainer.validate(module, datamodule=data, ckpt_path=best_path, verbose=False)
    if trainer.is_global_zero:
        figure = learning_curve(logged(out), constant)
        write_whole(out / "learning_curve.png", png(figure))
    rounded = {name: round(float(value), 6) for name, value in metrics.items()}
    return trainer, {"steps": steps, "skipped_steps": skipping.num_skipped, **rounded}


def _loggers(settings: TrainingSettings, out: Path) -> list[Logger]:
    found: list[Logger] = [CSVLogger(out, name="log")]
    if settings.logger == "tensorboard":
        found.append(TensorBoardLogger(out, name="tensorboard"))
    return found


def logged(out: Path) -> dict[str, dict[int, float]]:
    """What a training logged: of each name its values by step, a resumed run's too."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(
        out.glob("log/version_*/metrics.csv"), key=lambda file: file.stat().st_mtime
    ):
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        found.setdefault(name, {})[int(row["step"])] = float(value)
    return found


@contextlib.contextmanager
def settings_blamed(names: Container[str]) -> Iterator[None]:
    """An error that begins with the name of a setting is blamed on its option.

    Raises:
        InputError: in place of that error.
    """
    try:
        yield
    except ValueError as error:
        name, _, rule = str(error).partition(" ")
        if name not in names:
            raise
        raise InputError(f"--{name.replace('_', '-')} {rule}") from error


def check_out(out: Path, file: str) -> None:
    """Refuses a folder that cannot be written, or is not a training's.

    Raises:
        InputError: which it is.
    """
    with settings_blamed(("out",)):
        check_own(out / file)
    with argument("--out", str(out), "a folder that can be written", OSError):
        out.mkdir(parents=True, exist_ok=True)


def run_lightning(
    settings: TrainingSettings, train: Callable[[], dict[str, Any]]
) -> dict[str, Any] | None:
    """Checks the devices and trains.

    Lightning writes to stdout, which is for the result: its messages go to stderr.

    Args:
        settings: of the training.
        train: returns the result.

    Returns:
        The result; None in the processes that help the first.

    Raises:
        InputError: these devices cannot be used.
    """
    chosen = {name: getattr(settings, name) for name in LIGHTNING}
    shown = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in chosen.items())
    with contextlib.redirect_stdout(sys.stderr):
        with argument("the devices", shown):
            processes(settings)
        try:
            result = train()
        except SystemExit as stopped:  # how Lightning ends after Ctrl-C
            raise KeyboardInterrupt from stopped
    is_rank_zero = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    return result if is_rank_zero else None


def quiet() -> None:
    """Keeps Lightning's greetings, and its advice that does not concern the user, to itself."""
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for advice in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*number of training batches.*",
        ".*`ModelCheckpoint.*monitor=None.*",
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", advice)


def processes(settings: TrainingSettings) -> tuple[int, int]:
    """Rank and number of the processes that a launcher such as `torchrun` started together.

    What another job has left in the environment counts for nothing where Lightning runs one
    process: nor does it for Lightning then.
    """
    quiet()
    chosen = {name: getattr(settings, name) for name in LIGHTNING}
    trainer = L.Trainer(**chosen, logger=False, enable_checkpointing=False)
    environment = getattr(trainer.strategy, "cluster_environment", None)
    rank, number = 0, 1
    if environment is not None and environment.creates_processes_externally:
        rank, number = environment.global_rank(), environment.world_size()
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    return rank, number


def sha256_of(path: Path) -> str:
    """What tells a file's content from another's."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes one whole file."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
