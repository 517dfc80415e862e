"""The pairs that training drafts chains from, and the attention of those chains.

Shapes: B texts, T tokens, R roots (pairs to draft from) of the text with most, M roots of all
texts, A heads, D head dimension.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adaeagle.drafters.head_layers import Attention, Rotation


@dataclass(frozen=True, slots=True)
class Roots:
    """The pairs to draft from: those that read an answer's token."""

    texts: Tensor  # [M] int64, whose pairs they are
    pairs: Tensor  # [M] int64, ascending within a text
    padded: Tensor  # [B, R] int64, the pairs of each text; what is over is any other pair
    is_root: Tensor  # [B, R] bool, what is no padding: M in all, in the order of `pairs`

    @classmethod
    def of(cls, is_answer: Tensor) -> "Roots":
        """The roots of texts, is_answer [B, T] bool."""
        reads_answer = is_answer[:, 1:]
        num_roots = int(reads_answer.sum(1).max())  # one host sync a batch
        order = reads_answer.int().argsort(dim=1, descending=True, stable=True)[:, :num_roots]
        is_root = reads_answer.gather(1, order)
        texts = is_root.nonzero()[:, 0]
        return cls(texts, order[is_root], order, is_root)

    def pad(self, values: Tensor) -> Tensor:
        """[1, A, M, D] → [B, A, R, D], zeros where there is no root."""
        _, num_heads, _, dim = values.shape
        padded = values.new_zeros(*self.is_root.shape, num_heads, dim)
        padded[self.is_root] = values[0].transpose(0, 1)
        return padded.transpose(1, 2)

    def unpad(self, values: Tensor) -> Tensor:
        """[B, A, R, D] → [1, A, M, D]."""
        return values.transpose(1, 2)[self.is_root].transpose(0, 1).unsqueeze(0)


class UnrolledAttention:
    """One attention layer of chains that are unrolled from roots.

    Args:
        attention: the head's.
        roots: where chains begin.
        mask: additive [B, 1, R, T-1], which pairs each root sees.
    """

    def __init__(self, attention: Attention, roots: Roots, mask: Tensor) -> None:
        self._attention = attention
        self._roots = roots
        self._mask = mask
        self._group = attention.q_proj.out_features // attention.k_proj.out_features
        self._pairs: tuple[Tensor, Tensor]
        self._own: list[tuple[Tensor, Tensor]] = []

    def read(self, inputs: Tensor, rotation: Rotation) -> None:
        """Takes the keys and values of every pair, from inputs [B, T-1, D]."""
        _, key, value = self._attention.project(inputs, rotation)
        self._pairs = self._repeated(key, value)

    def __call__(self, inputs: Tensor, rotation: Rotation, step: int) -> Tensor:
        """One step of all roots: [1, M, D] → [1, M, H]."""
        roots = self._roots
        query, key, value = self._attention.project(inputs, rotation)
        if step > 0:
            self._own.append(self._repeated(roots.pad(key), roots.pad(value)))
        mixed = unrolled_attention(roots.pad(query), self._pairs, self._own, self._mask)
        return self._attention.merge(roots.unpad(mixed))

    def _repeated(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return (
            key.repeat_interleave(self._group, dim=1),
            value.repeat_interleave(self._group, dim=1),
        )


def unrolled_attention(
    query: Tensor, pairs: tuple[Tensor, Tensor], own: list[tuple[Tensor, Tensor]], mask: Tensor
) -> Tensor:
    """Attention of one step, of every root over the pairs up to it and over its own steps.

    Args:
        query: [B, A, R, D].
        pairs: keys and values of step 0, each [B, A, T-1, D].
        own: keys and values of the later steps, each [B, A, R, D].
        mask: additive [B, 1, R, T-1], which pairs each root sees.
    """
    keys, values = pairs
    query = query / query.shape[3] ** 0.5
    own_scores = [(query * key).sum(3, keepdim=True) for key, _ in own]
    scores = torch.cat((query @ keys.transpose(2, 3) + mask, *own_scores), dim=3)
    shares = scores.float().softmax(3).to(query.dtype)
    mixed: Tensor = shares[..., : keys.shape[2]] @ values
    for place, (_, value) in enumerate(own, start=keys.shape[2]):
        mixed = mixed + shares[..., place : place + 1] * value
    return mixed
