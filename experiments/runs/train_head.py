"""Trains a draft model for any target: `adaeagle train-head`.

Three stages in one folder, each resumed where it was killed: the target answers the prompts
(`own_text/`), its features are stored where asked (`features/`), the draft model is trained.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import Dataset

from adaeagle import EagleDrafter, Target
from adaeagle.drafters.eagle3_head import Eagle3Head
from adaeagle.drafters.eagle_head import EagleHead
from adaeagle.models.backbone import LAST
from experiments.errors import argument
from experiments.runs.models import load_target, silence
from experiments.runs.training import check_out, run_lightning
from predictors.data.features import collect_features, feature_file
from predictors.data.step_batches import StepData
from predictors.draft_models.causal_lm import CausalLMTraining
from predictors.draft_models.conversations import questions, read_records
from predictors.draft_models.data import EagleBatch, SelfGeneratedDataset, eagle_data
from predictors.draft_models.eagle import EagleTraining, begin_as_sum, default_head_config
from predictors.draft_models.eagle3 import (
    Eagle3Training,
    begin_as_target,
    default_head3_config,
    frequent_tokens,
    training_layers,
)
from predictors.draft_models.lm import draft_lm, lm_data, write_lm_streams
from predictors.draft_models.self_generation import SelfGenerationSettings, collect_self_generated
from predictors.training.callbacks import SkipNonFiniteSteps

Kind = Literal["eagle", "eagle3", "lm"]
KINDS = ("eagle", "eagle3", "lm")


@dataclass(frozen=True, slots=True)
class TrainHeadSettings:
    """What to train, on what, and how.

    Args:
        target: bundled name, folder or Hugging Face id.
        data: `.jsonl` or `.jsonl.gz` of prompts or conversations, see
            `predictors.draft_models.conversations`.
        out: folder of everything this writes; the trained model is in `final/`.
        kind: "eagle": a head on the target's features; "eagle3": on those of three layers; "lm": a
            small causal LM of its vocabulary.
        max_steps: optimiser steps.
        batch_size: texts (a head) or windows ("lm") a process and step.
        window: longest text in tokens.
        learning_rate: None: 3e-5 for an EAGLE head and 5e-5 for an EAGLE-3 head, as the papers;
            3e-3 for a language model. A head of a few million parameters trained for minutes wants
            1e-3 to 3e-3.
        warmup_steps: None: 2000 as the paper, at most a twentieth of the run.
        num_layers: None: 1 for a head, 2 for a language model; an EAGLE-3 head has one.
        draft_vocab_size: tokens a head drafts from, the most frequent of the answers; None: all for
            an EAGLE head, 32,000, or the target's where it has fewer, for an EAGLE-3 head.
        unroll: steps of a draft that a head is trained on; None: 1 for an EAGLE head and 7 for an
            EAGLE-3 head, as the papers.
        token_weight: of an EAGLE head's cross-entropy beside its feature loss; the paper's 0.1. A
            head trained briefly is right more often with 1.
        max_new_tokens: longest answer of the target.
        max_turns: answered turns of a conversation.
        generation_batch_size: prompts the target answers side by side.
        store_features: write the target's features once instead of running it at every step;
            takes tokens x hidden size x bytes of its dtype, four times that for EAGLE-3.
        limit: conversations taken from `data`; None: all.
        seed: of weights, order and noise.
        checkpoint_every: steps between checkpoints, and between validations.
        resume: go on from the last checkpoint of `out`.
        dtype: of the target; None: the checkpoint's own.
        accelerator: Lightning's.
        devices: Lightning's.
        num_nodes: Lightning's.
        strategy: Lightning's.
        precision: Lightning's.
    """

    target: str
    data: Path
    out: Path
    kind: Kind = "eagle"
    max_steps: int = 100_000
    batch_size: int = 4
    window: int = 2048
    learning_rate: float | None = None
    warmup_steps: int | None = None
    num_layers: int | None = None
    draft_vocab_size: int | None = None
    unroll: int | None = None
    token_weight: float = 0.1
    max_new_tokens: int = 256
    max_turns: int = 2
    generation_batch_size: int = 32
    store_features: bool = False
    limit: int | None = None
    seed: int = 0
    checkpoint_every: int = 1000
    resume: bool = True
    dtype: str | None = None
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind == "eagle3" and self.num_layers not in (None, 1):
            raise ValueError(f"num_layers of an EAGLE-3 head must be 1, got {self.num_layers}")
        if self.kind == "lm":
            for name in ("draft_vocab_size", "unroll"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} is for heads and must be None, got {getattr(self, name)}"
                    )
        for name in ("max_steps", "batch_size", "num_nodes", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("learning_rate", "num_layers", "draft_vocab_size", "unroll"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        if self.warmup_steps is not None and not 0 <= self.warmup_steps < self.max_steps:
            raise ValueError(
                f"warmup_steps must be in 0..{self.max_steps - 1}, got {self.warmup_steps}"
            )
        if self.window <= self.max_new_tokens:
            raise ValueError(
                f"window must be > max_new_tokens={self.max_new_tokens}, got {self.window}"
            )
        if self.token_weight < 0:
            raise ValueError(f"token_weight must be >= 0, got {self.token_weight}")
        if self.max_steps <= 1 and self.warmup_steps is None:
            raise ValueError(f"max_steps must be >= 2 for a warm-up, got {self.max_steps}")

    @property
    def warmup(self) -> int:
        """Optimiser steps of linear warm-up."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return min(2000, self.max_steps // 20)


def train_head(settings: TrainHeadSettings, target: Target | None = None) -> dict[str, Any]:
    """Runs the three stages and saves the draft model; returns what came out.

    Args:
        settings: what to train.
        target: the model that `settings` names, where it is loaded already.
    """
    started = time.perf_counter()
    records = read_records(settings.data, settings.limit)
    if target is None:
        target = Target.from_pretrained(settings.target, dtype=settings.dtype)
    shards = _own_text(target, records, settings)
    if settings.kind != "lm":
        return train_head_on(target, shards, settings, started)
    return _finish(_train_lm(target, records, shards, settings), settings, started)


def run_checked(settings: TrainHeadSettings) -> dict[str, Any] | None:
    """What the training found, after all its options were checked.

    Returns:
        The result; None in the processes that help the first.

    Raises:
        InputError: a setting cannot be used, or the text cannot be learned from.
    """
    silence()
    with argument("--data", str(settings.data)):
        read_records(settings.data, settings.limit)
    check_out(settings)

    def train() -> dict[str, Any]:
        target = load_target(settings.target, "cpu", settings.dtype)
        # All else has been checked: what is refused from here on is the text.
        with argument("--data", str(settings.data), errors=ValueError):
            return train_head(settings, target)

    return run_lightning(settings, train)


def train_head_on(
    target: Target,
    shards: Sequence[Path],
    settings: TrainHeadSettings,
    started: float | None = None,
) -> dict[str, Any]:
    """The last two stages, on text of the target that is there already.

    Args:
        target: the model that wrote it.
        shards: of `predictors.draft_models.self_generation`.
        settings: of an EAGLE or EAGLE-3 head.
        started: `time.perf_counter()` when the first stage began; None: now.

    Returns:
        what came out, as in `out / "result.json"`.
    """
    if started is None:
        started = time.perf_counter()
    return _finish(_train_eagle(target, shards, settings), settings, started)


def _finish(found: dict[str, Any], settings: TrainHeadSettings, started: float) -> dict[str, Any]:
    result = {
        "kind": settings.kind,
        "target": settings.target,
        "model": str(settings.out / "final"),
        **found,
        "seconds": round(time.perf_counter() - started, 1),
    }
    _write_json(settings.out / "result.json", result)
    return result


def _claim(settings: TrainHeadSettings) -> None:
    """Makes the folder, and writes down what is to be made in it."""
    settings.out.mkdir(parents=True, exist_ok=True)
    resolved = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(settings).items()}
    _write_json(settings.out / "config.json", resolved)


def _own_text(
    target: Target, records: Sequence[dict[str, Any]], settings: TrainHeadSettings
) -> list[Path]:
    """The target's answers; processes that were started together share the work."""
    _claim(settings)
    conversations = [turns for turns in map(questions, records) if turns]
    if not conversations:
        raise ValueError(
            f"data must hold prompts to answer: turns, messages or prompt; {settings.data} has none"
        )
    longest = min(settings.window, target.max_length)
    text = SelfGenerationSettings(
        max_new_tokens=settings.max_new_tokens,
        max_prompt_tokens=longest - settings.max_new_tokens,
        max_turns=settings.max_turns,
        batch_size=settings.generation_batch_size,
        seed=settings.seed,
    )
    target.model.to(_generation_device(settings))  # type: ignore[arg-type]
    rank, world_size = _launched()
    shards = collect_self_generated(
        target,
        conversations,
        settings.out / "own_text",
        text,
        rank=rank,
        world_size=world_size,
    )
    _wait_for(shards)
    return shards


def _train_eagle(
    target: Target, shards: Sequence[Path], settings: TrainHeadSettings
) -> dict[str, Any]:
    _claim(settings)
    features = None
    if settings.store_features:
        features = settings.out / ("features3" if settings.kind == "eagle3" else "features")
        layers = training_layers(target) if settings.kind == "eagle3" else (LAST,)
        rank, world_size = _launched()
        collect_features(target, shards[rank::world_size], features, layers)
        _wait_for([feature_file(features, shard) for shard in shards])
    dataset = SelfGeneratedDataset(shards, settings.window, features)
    data = eagle_data(
        dataset,
        batch_size=settings.batch_size,
        max_steps=settings.max_steps,
        seed=settings.seed,
    )
    L.seed_everything(settings.seed, verbose=False)
    if settings.kind == "eagle3":
        module3 = _eagle3_module(target, data.training, settings)
        head: EagleHead | Eagle3Head = module3.head
        trainer, metrics = _fit(module3, data, settings, clip=0.5, clip_by="norm")
    else:
        module = _eagle_module(target, data.training, settings)
        head = module.head
        # The paper clips by value.
        trainer, metrics = _fit(module, data, settings, clip=0.5, clip_by="value")
    if trainer.is_global_zero:
        EagleDrafter(head.cpu(), target).save_pretrained(settings.out / "final")
    return {"num_texts": len(dataset), "num_tokens": dataset.num_tokens, **metrics}


def _eagle_module(
    target: Target, texts: Dataset[EagleBatch], settings: TrainHeadSettings
) -> EagleTraining:
    size, layers = settings.draft_vocab_size, settings.num_layers or 1
    head = EagleHead(default_head_config(target, layers, size))
    _set_vocab(head, texts)
    begin_as_sum(head)
    return EagleTraining(
        head,
        target,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate or 3e-5,
        warmup_steps=settings.warmup,
        token_weight=settings.token_weight,
        unroll=settings.unroll or 1,
        seed=settings.seed,
    )


def _eagle3_module(
    target: Target, texts: Dataset[EagleBatch], settings: TrainHeadSettings
) -> Eagle3Training:
    head = Eagle3Head(default_head3_config(target, settings.draft_vocab_size))
    _set_vocab(head, texts)
    begin_as_target(head, target)
    return Eagle3Training(
        head,
        target,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate or 5e-5,
        warmup_steps=settings.warmup,
        unroll=settings.unroll or 7,
    )


def _set_vocab(head: EagleHead | Eagle3Head, texts: Dataset[EagleBatch]) -> None:
    """Lets a head draft from the tokens that are most frequent in the answers of `texts`."""
    if head.vocab_map is None:
        return
    answers = (texts[index] for index in range(len(texts)))  # type: ignore[arg-type]
    size = len(head.vocab_map)
    head.set_vocab(frequent_tokens(answers, head.config.vocab_size, size))


def _train_lm(
    target: Target,
    records: Sequence[dict[str, Any]],
    shards: Sequence[Path],
    settings: TrainHeadSettings,
) -> dict[str, Any]:
    folder = settings.out / "streams"
    num_tokens = write_lm_streams(target, records, shards, folder, settings.seed)
    data = lm_data(
        folder,
        settings.window,
        batch_size=settings.batch_size,
        max_steps=settings.max_steps,
        seed=settings.seed,
    )
    L.seed_everything(settings.seed, verbose=False)
    model = draft_lm(target, num_layers=settings.num_layers or 2)
    module = CausalLMTraining(
        model,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate or 3e-3,
        warmup_steps=settings.warmup,
    )
    trainer, metrics = _fit(module, data, settings, clip=1.0, clip_by="norm")
    if trainer.is_global_zero:
        model.to(target.dtype).save_pretrained(settings.out / "final")  # type: ignore[arg-type]
        if target.tokenizer is not None:
            target.tokenizer.save_pretrained(settings.out / "final")
    return {"num_tokens": num_tokens, **metrics}


def _fit(
    module: L.LightningModule,
    data: StepData,
    settings: TrainHeadSettings,
    *,
    clip: float,
    clip_by: Literal["norm", "value"],
) -> tuple[L.Trainer, dict[str, float]]:
    """Trains and validates; checkpoints and the CSV log go into `out`."""
    skipping = SkipNonFiniteSteps()
    checkpoints = settings.out / "checkpoints"
    trainer = L.Trainer(
        max_steps=settings.max_steps,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=settings.strategy,
        precision=settings.precision,  # type: ignore[arg-type]  # Lightning checks it
        gradient_clip_val=clip,
        gradient_clip_algorithm=clip_by,
        val_check_interval=settings.checkpoint_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # `StepBatches` divides the batches itself
        callbacks=[
            ModelCheckpoint(
                checkpoints,
                save_last=True,
                save_top_k=0,
                every_n_train_steps=settings.checkpoint_every,
            ),
            skipping,
            TQDMProgressBar(refresh_rate=20),
        ],
        logger=CSVLogger(settings.out, name="log"),
        log_every_n_steps=min(20, settings.max_steps),
        enable_model_summary=False,
    )
    last = checkpoints / "last.ckpt"
    is_resumed = settings.resume and last.exists()
    trainer.fit(module, datamodule=data, ckpt_path=last if is_resumed else None)
    trainer.save_checkpoint(last)
    [metrics] = trainer.validate(module, datamodule=data, verbose=False)
    rounded = {name: round(float(value), 4) for name, value in metrics.items()}
    return trainer, {
        "steps": trainer.global_step,
        "skipped_steps": skipping.num_skipped,
        **rounded,
    }


def _launched() -> tuple[int, int]:
    """Rank and number of the processes that a launcher such as `torchrun` started together."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _wait_for(paths: Sequence[Path]) -> None:
    """Until the other processes have written their files."""
    while not all(path.exists() for path in paths):
        time.sleep(1.0)


def _generation_device(settings: TrainHeadSettings) -> torch.device:
    if settings.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
