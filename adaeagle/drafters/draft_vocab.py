"""A draft vocabulary: some of the target's tokens, which a head alone drafts from.

Source: EAGLE-3 trains a head for the tokens that are frequent (Li et al. 2025,
https://arxiv.org/abs/2503.01840); FR-Spec cuts the output layer of a head that was trained for all
(Zhao et al. 2025, https://arxiv.org/abs/2502.14856). Either way a token outside is never drafted
and the text stays the target's. Names of the tensors are those of the official EAGLE-3 checkpoints.

Shapes: W draft vocabulary, V target vocabulary.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class DraftVocab(nn.Module):
    """A head with a draft vocabulary, kept beside its weights.

    Args:
        size: W; V where the head drafts from all.
        target_size: V.

    Raises:
        ValueError: W is not in 1..V.
    """

    d2t: Tensor  # [W] int64 OFFSETS: target id = draft id + d2t[draft id]
    t2d: Tensor  # [V] bool, whether a target token is in the draft vocabulary

    def __init__(self, size: int, target_size: int) -> None:
        super().__init__()
        if not 1 <= size <= target_size:
            raise ValueError(f"draft_vocab_size must be in 1..{target_size}, got {size}")
        self.size = size
        self._target_size = target_size
        if self.has_draft_vocab:
            self.register_buffer("d2t", torch.zeros(size, dtype=torch.int64))
            self.register_buffer("t2d", torch.arange(target_size) < size)

    @property
    def has_draft_vocab(self) -> bool:
        """Whether draft ids differ from the target's; a full vocabulary uses them as they are."""
        return self.size != self._target_size

    @property
    def vocab_map(self) -> Tensor | None:
        """[W] the target id of each draft id; None where they are the same."""
        if not self.has_draft_vocab:
            return None
        return self.d2t + torch.arange(len(self.d2t), device=self.d2t.device)

    def take_vocab(self, weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
        """Sets the vocabulary that a checkpoint holds; the weights with this head's own tensors.

        Args:
            weights: of the checkpoint; a full vocabulary's `d2t` and `t2d` are dropped.
            name: for messages.

        Raises:
            ValueError: there is none, or `d2t` and `t2d` contradict each other.
        """
        rest = {key: weight for key, weight in weights.items() if key not in ("d2t", "t2d")}
        if not self.has_draft_vocab:
            return rest
        if "d2t" not in weights:
            raise ValueError(
                f"{name} must hold 'd2t', the target ids of its {self.size} draft tokens, "
                f"got {sorted(weights)}"
            )
        offsets = weights["d2t"]
        if offsets.dtype.is_floating_point or offsets.ndim != 1:
            raise ValueError(f"d2t of {name} must be a list of offsets, got {offsets.dtype}")
        self.set_vocab(offsets.long() + torch.arange(len(offsets)))
        marks = weights.get("t2d")
        if marks is not None and not torch.equal(marks.bool().cpu(), self.t2d.cpu()):
            raise ValueError(
                f"t2d of {name} must mark the tokens that d2t leads to, draft id + d2t[draft id], "
                f"got {int(marks.count_nonzero())} marks of {len(marks)} tokens, not the same"
            )
        return rest | {"d2t": self.d2t, "t2d": self.t2d}

    def set_vocab(self, token_ids: Tensor) -> None:
        """Makes [W] distinct target ids the draft vocabulary.

        Raises:
            ValueError: another number of ids, the same one twice, or one that is no target token.
        """
        check_vocab(token_ids, self.size, self._target_size)
        ids = token_ids.to(self.d2t.device)
        self.d2t.copy_(ids - torch.arange(len(ids), device=ids.device))
        self.t2d.zero_()[ids] = True


def is_padded(size: int, other: int) -> bool:
    """Whether two vocabularies may be one, padded to different sizes: they differ by 1 % at most.

    Rows beyond the tokenizer's last token are there for the hardware, and nobody uses them.
    """
    return abs(size - other) <= max(size, other) // 100


def check_vocab(token_ids: Tensor, size: int, target_size: int) -> None:
    """Raises ValueError unless [size] holds distinct ids of a target's `target_size` tokens."""
    num_distinct = len(set(token_ids.tolist()))
    if token_ids.shape != (size,) or num_distinct != size:
        raise ValueError(
            f"a draft vocabulary must be {size} distinct target ids, got {len(token_ids)}, "
            f"{num_distinct} of them distinct"
        )
    low, high = int(token_ids.min()), int(token_ids.max())
    if low < 0 or high >= target_size:
        raise ValueError(
            f"a draft vocabulary's target ids must be in 0..{target_size - 1}, "
            f"got {low if low < 0 else high}"
        )
