"""The target's own texts as training data of an EAGLE head, with or without stored features.

Shapes: B texts, T tokens, H hidden size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset, Subset

from adaeagle.models.target import Target
from adaeagle.ranges import at_least
from predictors.data.features import feature_file, load_features
from predictors.data.step_batches import StepData


@dataclass(frozen=True, slots=True)
class EagleBatch:
    """Texts padded at the right; padding comes after everything and is masked from the loss."""

    token_ids: Tensor  # [B, T] int64
    is_answer: Tensor  # [B, T] bool, tokens the target wrote
    features: Tensor | None = None  # [B, T, C*H] of the target; None: computed in the step

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "EagleBatch":
        """Lightning moves batches with this."""
        moved = None if self.features is None else self.features.to(device)
        return EagleBatch(self.token_ids.to(device), self.is_answer.to(device), moved)


@dataclass(frozen=True, slots=True)
class _Text:
    shard: int
    start: int
    num_prompt: int
    num_tokens: int
    conversation: int


class SelfGeneratedDataset(Dataset[EagleBatch]):
    """Texts of shards written by `collect_self_generated`, each cut to `window` tokens.

    Args:
        shards: what to read.
        window: longest text; what is over is cut off at the end.
        features: a folder written by `collect_features`; None: the batches hold none.
    """

    def __init__(self, shards: Sequence[Path], window: int, features: Path | None = None) -> None:
        at_least(3, window=window)
        self.window = window
        self._tokens: list[Tensor] = []
        self._features: list[Tensor] | None = None if features is None else []
        self.texts: list[_Text] = []
        for number, shard in enumerate(shards):
            tensors = load_file(shard)
            self._tokens.append(tensors["token_ids"].long())
            if features is not None and self._features is not None:
                self._features.append(load_features(feature_file(features, shard)))
            self.texts += _texts(number, tensors, window)
        if not self.texts:
            raise ValueError(f"the target's text must hold at least one answer, got {shards}")

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> EagleBatch:
        """One text; [T] and [T, H]."""
        text = self.texts[index]
        part = slice(text.start, text.start + text.num_tokens)
        is_answer = torch.arange(text.num_tokens) >= text.num_prompt
        features = None if self._features is None else self._features[text.shard][part]
        return EagleBatch(self._tokens[text.shard][part], is_answer, features)

    def split(self, every: int) -> tuple[list[int], list[int]]:
        """Indices for training and validation: every `every`-th conversation is held out."""
        held = [i for i, text in enumerate(self.texts) if text.conversation % every == every - 1]
        kept = [i for i, text in enumerate(self.texts) if text.conversation % every != every - 1]
        return kept, held

    @property
    def num_tokens(self) -> int:
        return sum(text.num_tokens for text in self.texts)


def _texts(shard: int, tensors: dict[str, Tensor], window: int) -> list[_Text]:
    """Where the texts of one shard lie; left out: those whose answer begins after the window."""
    texts: list[_Text] = []
    start = 0
    lengths = (tensors[key].tolist() for key in ("prompt_lengths", "answer_lengths"))
    for prompt, answer, owner in zip(*lengths, tensors["conversations"].tolist(), strict=True):
        num_tokens = min(prompt + answer, window)
        if num_tokens > prompt and num_tokens > 2:
            texts.append(_Text(shard, start, prompt, num_tokens, owner))
        start += prompt + answer
    return texts


def collate(items: Sequence[EagleBatch]) -> EagleBatch:
    """Pads texts to the longest one."""

    def padded(tensors: list[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)

    features = [item.features for item in items if item.features is not None]
    return EagleBatch(
        padded([item.token_ids for item in items]),
        padded([item.is_answer for item in items]),
        padded(features) if features else None,
    )


def eagle_data(
    dataset: SelfGeneratedDataset,
    *,
    batch_size: int,
    max_steps: int,
    seed: int = 0,
    hold_out_every: int = 20,
    max_validation_texts: int = 256,
) -> StepData:
    """Splits the texts by conversation, 95 to 5 like the paper's unless said otherwise."""
    at_least(2, hold_out_every=hold_out_every)
    kept, held = dataset.split(hold_out_every)
    if not kept or not held:
        raise ValueError(
            f"the text must come from at least hold_out_every={hold_out_every} conversations, "
            f"got {len(kept) + len(held)} texts"
        )
    stride = -(-len(held) // max_validation_texts)
    return StepData(
        Subset(dataset, kept),
        Subset(dataset, held[::stride]),
        batch_size=batch_size,
        max_steps=max_steps,
        seed=seed,
        collate=collate,
    )


def frequent_tokens(texts: Iterable[EagleBatch], vocab_size: int, size: int) -> Tensor:
    """The `size` most frequent ids among the answers of `texts`, ascending: [size] int64."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for text in texts:
        counts += torch.bincount(text.token_ids[text.is_answer], minlength=vocab_size)
    chosen = counts.argsort(descending=True, stable=True)[:size]
    token_ids: Tensor = chosen.sort().values
    return token_ids


def head_dimensions(target: Target) -> dict[str, Any]:
    """What the config of a head in a target's dimensions begins with.

    A head has Llama's layers. What the target's family has no word for is as in Llama.
    """
    config = target.config
    size, num_heads = config.hidden_size, config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None)
    return {
        "hidden_size": size,
        "intermediate_size": inner or 4 * size,
        "num_attention_heads": num_heads,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or num_heads,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": getattr(config, "rms_norm_eps", 1e-6),
        "hidden_act": getattr(config, "hidden_act", "silu"),
        "rope_theta": 10000.0,
        "qkv_bias": False,
    }
