"""Trains a draft model for any target: `adaeagle train-head`.

Three stages in one folder, each resumed where it was killed: the target answers the prompts
(`own_text/`), its features are stored where asked (`features/`), the draft model is trained and
saved (`final/`).
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch.utils.data import Dataset

from adaeagle import Target
from adaeagle.data.conversations import Record, read_records
from adaeagle.drafters.eagle3_head import Eagle3Head
from adaeagle.drafters.eagle_head import EagleHead
from adaeagle.ranges import at_least
from experiments.errors import argument
from experiments.runs.models import ModelOptions, load_target, silence
from experiments.runs.training import (
    TrainingFolder,
    TrainingSettings,
    check_out,
    fit,
    run_lightning,
    settings_blamed,
    sha256_of,
)
from predictors.data.features import collect_features, feature_file
from predictors.data.step_batches import StepData
from predictors.draft_models.causal_lm import CausalLMTraining
from predictors.draft_models.data import (
    EagleBatch,
    SelfGeneratedDataset,
    eagle_data,
    frequent_tokens,
)
from predictors.draft_models.eagle import EagleTraining, begin_as_sum, default_head_config
from predictors.draft_models.eagle3 import Eagle3Training, begin_as_target, default_head3_config
from predictors.draft_models.lm import draft_lm, write_lm_streams
from predictors.draft_models.medusa import MedusaTraining, default_heads
from predictors.draft_models.packed_tokens import PackedTokens
from predictors.draft_models.self_generation import (
    SelfGenerationSettings,
    collect_self_generated,
    text_identity,
)
from predictors.draft_models.training import HeadTraining
from predictors.training.optimised import Optimisation

log = logging.getLogger(__name__)

Kind = Literal["eagle", "eagle3", "medusa", "lm"]
HEADS: dict[str, type[HeadTraining]] = {
    "eagle": EagleTraining,
    "eagle3": Eagle3Training,
    "medusa": MedusaTraining,
}
KINDS = (*HEADS, "lm")
RATES = {"eagle": 3e-5, "eagle3": 5e-5, "medusa": 1e-3, "lm": 3e-3}
"""Learning rates of the papers, at their highest."""


@dataclass(frozen=True, slots=True)
class TrainHeadSettings(TrainingSettings):
    """What to train, on what, and how; what is not told here is told by `TrainingSettings`.

    Args:
        target: bundled name, folder or Hugging Face id.
        data: `.jsonl` or `.jsonl.gz` of prompts or conversations, see
            `adaeagle.data.conversations`.
        out: folder of everything this writes; the trained model is in `final/`.
        kind: "eagle": a head on the target's features; "eagle3": on those of three layers;
            "medusa": Medusa's heads; "lm": a small causal LM of its vocabulary.
        batch_size: texts (a head) or windows ("lm") a process and step.
        window: longest text in tokens.
        learning_rate: None: `RATES`. A head of a few million parameters trained for minutes wants
            1e-3 to 3e-3.
        warmup_steps: None: 2000 as EAGLE's paper, at most a twentieth of the run.
        num_layers: None: 1 for a head, 2 for a language model; an EAGLE-3 head has one. Of Medusa's
            heads it is the residual blocks.
        draft_vocab_size: tokens an EAGLE head drafts from, the most frequent of the answers; None:
            all for an EAGLE head, 32,000, or the target's where it has fewer, for an EAGLE-3 head.
        unroll: steps of a draft that a head is trained on; None: 1 for an EAGLE head, 7 for an
            EAGLE-3 head, as the papers, and 3 for Medusa, which has a head for each.
        token_weight: of an EAGLE head's cross-entropy beside its feature loss; the paper's 0.1. A
            head trained briefly is right more often with 1.
        own_output: give each of Medusa's heads an output layer, in place of the target's.
        max_new_tokens: longest answer of the target.
        max_turns: answered turns of a conversation.
        generation_batch_size: prompts the target answers side by side.
        store_features: write the target's features once instead of running it at every step;
            takes tokens x hidden size x bytes of its dtype, four times that for EAGLE-3.
        limit: conversations taken from `data`; None: all.
        dtype: of the target; None: the checkpoint's own.
    """

    target: str
    data: Path
    out: Path
    _: KW_ONLY
    kind: Kind = "eagle"
    max_steps: int = 100_000
    batch_size: int = 4
    checkpoint_every: int = 1000
    window: int = 2048
    learning_rate: float | None = None
    warmup_steps: int | None = None
    num_layers: int | None = None
    draft_vocab_size: int | None = None
    unroll: int | None = None
    token_weight: float = 0.1
    own_output: bool = False
    max_new_tokens: int = 256
    max_turns: int = 2
    generation_batch_size: int = 32
    store_features: bool = False
    limit: int | None = None
    dtype: str | None = None

    file = "config.json"

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind == "eagle3" and self.num_layers not in (None, 1):
            raise ValueError(f"num_layers of an EAGLE-3 head must be 1, got {self.num_layers}")
        for name, kinds in (
            ("draft_vocab_size", ("eagle", "eagle3")),
            ("unroll", tuple(HEADS)),
            ("own_output", ("medusa",)),
        ):
            if getattr(self, name) and self.kind not in kinds:
                raise ValueError(
                    f"{name} is for {' and '.join(kinds)} and must not be given, "
                    f"got {getattr(self, name)}"
                )
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
        at_least(0, token_weight=self.token_weight)
        if self.max_steps <= 1 and self.warmup_steps is None:
            raise ValueError(f"max_steps must be >= 2 for a warm-up, got {self.max_steps}")

    @property
    def rate(self) -> float:
        """The learning rate at its highest."""
        return self.learning_rate or RATES[self.kind]

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

    Raises:
        ValueError: the text cannot be learned from, or `out` holds something else.
    """
    started = time.perf_counter()
    records = read_records(settings.data, settings.limit)
    if target is None:
        target = Target.from_pretrained(settings.target, device="cpu", dtype=settings.dtype)
    with _folder(target, settings) as folder:
        if folder.result is not None:
            return folder.result
        shards = _own_text(target, records, settings, folder)
        if settings.kind == "lm":
            found = _train_lm(target, records, shards, settings, folder)
        else:
            found = _train_head(target, shards, settings, folder)
        return _finish(found, settings, folder, started)


def train_head_on(
    target: Target, shards: Sequence[Path], settings: TrainHeadSettings
) -> dict[str, Any]:
    """The last two stages, on text of the target that is there already.

    Args:
        target: the model that wrote it.
        shards: of `predictors.draft_models.self_generation`.
        settings: of a head.

    Returns:
        what came out, as in `out / "result.json"`.
    """
    started = time.perf_counter()
    with _folder(target, settings) as folder:
        if folder.result is not None:
            return folder.result
        return _finish(_train_head(target, shards, settings, folder), settings, folder, started)


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
    check_out(settings.out, settings.file)

    def train() -> dict[str, Any]:
        target = load_target(ModelOptions(settings.target, dtype=settings.dtype), "cpu")
        names = {field.name for field in fields(settings)} - {"data"}
        # All else has been checked: what is refused from here on is the text.
        with (
            argument("--data", str(settings.data), errors=ValueError),
            settings_blamed(names),
        ):
            return train_head(settings, target)

    return run_lightning(settings, train)


def _folder(target: Target, settings: TrainHeadSettings) -> TrainingFolder:
    """The training's own folder; what its target and its data are is part of what it is."""
    given = {"data_sha256": sha256_of(settings.data), "text": text_identity(target)}
    return TrainingFolder(settings.out, settings, **given)


def _finish(
    found: dict[str, Any], settings: TrainHeadSettings, folder: TrainingFolder, started: float
) -> dict[str, Any]:
    return folder.finish(
        {
            "kind": settings.kind,
            "target": settings.target,
            "model": str(folder.path / "final"),
            **found,
            "seconds": round(time.perf_counter() - started, 1),
        }
    )


def _own_text(
    target: Target,
    records: Sequence[Record],
    settings: TrainHeadSettings,
    folder: TrainingFolder,
) -> list[Path]:
    """The target's answers; processes that were started together share the work."""
    conversations = [record.questions for record in records if record.questions]
    if not conversations:
        raise ValueError(f"data must hold prompts to answer, {settings.data} has none")
    longest = min(settings.window, target.max_length)
    text = SelfGenerationSettings(
        max_new_tokens=settings.max_new_tokens,
        max_prompt_tokens=longest - settings.max_new_tokens,
        max_turns=settings.max_turns,
        batch_size=settings.generation_batch_size,
        seed=settings.seed,
    )
    target.model.to(_generation_device(settings, folder))  # type: ignore[arg-type]
    shards = collect_self_generated(
        target,
        conversations,
        folder.path / "own_text",
        text,
        rank=folder.rank,
        world_size=folder.num_processes,
    )
    _wait_for(shards, folder)
    return shards


def _train_head(
    target: Target, shards: Sequence[Path], settings: TrainHeadSettings, folder: TrainingFolder
) -> dict[str, Any]:
    training = HEADS[settings.kind]
    features = None
    if settings.store_features:
        features = folder.path / ("features3" if settings.kind == "eagle3" else "features")
        own = shards[folder.rank :: folder.num_processes]
        collect_features(target, own, features, training.feature_layers(target))
        _wait_for([feature_file(features, shard) for shard in shards], folder)
    dataset = SelfGeneratedDataset(shards, settings.window, features)
    data = eagle_data(
        dataset,
        batch_size=settings.batch_size,
        max_steps=settings.max_steps,
        seed=settings.seed,
    )
    L.seed_everything(settings.seed, verbose=False)
    module = _head_training(target, data.training, settings)
    trainer, metrics = fit(module, data, settings, folder.path, clip=0.5, clip_by=training.clip_by)
    if trainer.is_global_zero:
        drafter: Any = module.drafter()
        drafter.save_pretrained(folder.path / "final")
    return {"num_texts": len(dataset), "num_tokens": dataset.num_tokens, **metrics}


def _head_training(
    target: Target, texts: Dataset[EagleBatch], settings: TrainHeadSettings
) -> HeadTraining:
    """An untrained head of the kind, and what trains it."""
    num_layers, size = settings.num_layers or 1, settings.draft_vocab_size
    decay = 0.01 if settings.kind == "eagle" else 0.0
    optimisation = Optimisation(settings.max_steps, settings.rate, decay, settings.warmup)
    if settings.kind == "medusa":
        heads = default_heads(target, settings.unroll or 3, num_layers, settings.own_output)
        return MedusaTraining(heads, target, optimisation)
    if settings.kind == "eagle3":
        head3 = Eagle3Head(default_head3_config(target, size))
        _set_vocab(head3, texts)
        begin_as_target(head3, target)
        return Eagle3Training(head3, target, optimisation, unroll=settings.unroll or 7)
    head = EagleHead(default_head_config(target, num_layers, size))
    _set_vocab(head, texts)
    begin_as_sum(head)
    return EagleTraining(
        head,
        target,
        optimisation,
        token_weight=settings.token_weight,
        unroll=settings.unroll or 1,
        seed=settings.seed,
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
    records: Sequence[Record],
    shards: Sequence[Path],
    settings: TrainHeadSettings,
    folder: TrainingFolder,
) -> dict[str, Any]:
    streams = folder.path / "streams"
    num_tokens = write_lm_streams(target, records, shards, streams, settings.seed)
    data = StepData(
        PackedTokens(streams / "train.npy", settings.window),
        PackedTokens(streams / "heldout.npy", settings.window),
        batch_size=settings.batch_size,
        max_steps=settings.max_steps,
        seed=settings.seed,
    )
    L.seed_everything(settings.seed, verbose=False)
    model = draft_lm(target, num_layers=settings.num_layers or 2)
    module = CausalLMTraining(
        model,
        max_steps=settings.max_steps,
        learning_rate=settings.rate,
        warmup_steps=settings.warmup,
    )
    trainer, metrics = fit(module, data, settings, folder.path, clip=1.0)
    if trainer.is_global_zero:
        final = folder.path / "final"
        model.to(target.dtype).save_pretrained(final)  # type: ignore[arg-type]
        if target.tokenizer is not None:
            target.tokenizer.save_pretrained(final)
    return {"num_tokens": num_tokens, **metrics}


def _wait_for(paths: Sequence[Path], folder: TrainingFolder) -> None:
    """Until the other processes have written their files."""
    has_warned = False
    while missing := [path.name for path in paths if not path.exists()]:
        if not has_warned:
            log.warning(
                "process %d of %d (RANK, WORLD_SIZE) waits for the others: %s and so on",
                folder.rank,
                folder.num_processes,
                missing[0],
            )
            has_warned = True
        time.sleep(1.0)


def _generation_device(settings: TrainHeadSettings, folder: TrainingFolder) -> torch.device:
    if settings.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    # A launcher may show each process its own device alone.
    return torch.device("cuda", folder.rank % torch.cuda.device_count())
