"""A preallocated key-value cache that hands attention only what is filled, and compacts in place.

Each text has a length of its own. A forward writes behind the longest text, so that all texts write
the same slots, and `commit` moves what is kept to where its text ends. Slots between a shorter
text and the forward's own are hidden by the mask (`attention_mask`).

`transformers`' `StaticCache` attends over its whole capacity and its `DynamicCache` copies every
layer at every step; here keys and values are written into one buffer and read back as views.

Shapes: L layers, B texts, H key-value heads, S slots, D head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

BUCKET = 64
"""Slots that buffers gain beyond what is needed: a copy of them so rarely costs next to nothing."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer's cache is made of."""

    device: torch.device
    dtype: torch.dtype
    num_heads: int
    key_dim: int
    value_dim: int


class Slots(NamedTuple):
    """One layer's views of the cache in one forward, each [B, H, S, D]."""

    new_keys: Tensor  # to be written
    new_values: Tensor
    keys: Tensor  # all that is filled, the new ones at the end
    values: Tensor


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # of __init_subclass__
    """One layer's slots: views of a buffer that all layers on a device share."""

    is_sliding = False
    is_compileable = False

    keys: Tensor  # [B, H, S, D]
    values: Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = 0  # filled slots
        self.is_initialized = True

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the buffer exists before the first forward."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])

    def get_max_cache_shape(self) -> int:
        return int(self.keys.shape[2])


class KVCache(Cache):
    """Keys and values of every layer, in one buffer a device, of texts side by side.

    Args:
        layers: each layer's shape, in the model's order.
        capacity: slots to begin with; `reserve` makes more.
        batch_size: texts side by side.
    """

    def __init__(self, layers: Sequence[LayerShape], capacity: int, batch_size: int = 1) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        self._shapes = list(layers)
        self._batch_size = batch_size
        self._slots = [_Layer() for _ in layers]
        super().__init__(layers=list(self._slots))
        self.lengths = [0] * batch_size
        """Committed tokens of each text."""
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.capacity = capacity
        self._hold(
            [
                torch.zeros(
                    (
                        self._shapes.count(shape),
                        self._batch_size,
                        shape.num_heads,
                        capacity,
                        dim,
                    ),
                    dtype=shape.dtype,
                    device=shape.device,
                )
                for shape in dict.fromkeys(self._shapes)
                for dim in (shape.key_dim, shape.value_dim)
            ]
        )

    def _hold(self, buffers: list[Tensor]) -> None:
        """Makes buffers, keys and values of each shape in turn, the ones of the layers."""
        self._buffers = buffers  # each [layers of one shape, B, H, S, D]
        self._groups: list[tuple[list[int], Tensor, Tensor]] = []
        pairs = zip(buffers[::2], buffers[1::2], strict=True)
        for shape, (keys, values) in zip(dict.fromkeys(self._shapes), pairs, strict=True):
            members = [layer for layer, own in enumerate(self._shapes) if own == shape]
            self._groups.append((members, keys, values))
            for layer, own_keys, own_values in zip(members, keys, values, strict=True):
                self._slots[layer].keys, self._slots[layer].values = own_keys, own_values

    def reserve(self, num_new: int) -> None:
        """Makes room for `num_new` more tokens; where the buffers are full, by a bucket more."""
        needed = self.length + num_new
        if needed <= self.capacity:
            return
        old = self._buffers
        self._allocate(needed + BUCKET)
        for buffer, before in zip(self._buffers, old, strict=True):
            buffer[..., : self.length, :] = before[..., : self.length, :]

    @property
    def length(self) -> int:
        """Filled slots."""
        return self._slots[0].length

    def append(self, num_new: int) -> list[Slots]:
        """Each layer's slots of `num_new` more tokens, for the caller to fill; see `reserve`.

        In place of `update` of every layer: views of all layers cost little more than one's.
        """
        start, end = self.length, self.length + num_new
        self.truncate(end)
        found: dict[int, Slots] = {}
        for members, keys, values in self._groups:
            parts = (
                buffer[..., first:end, :].unbind()
                for first in (start, 0)
                for buffer in (keys, values)
            )
            found |= zip(members, map(Slots, *parts), strict=True)
        return [found[layer] for layer in range(len(self._slots))]

    def truncate(self, length: int) -> None:
        """Forgets every slot from `length` on, of every text."""
        for layer in self._slots:
            layer.length = length
        self.lengths = [min(each, length) for each in self.lengths]

    def discard(self) -> None:
        """Forgets what was not committed."""
        self.truncate(max(self.lengths))

    def commit(self, kept: Sequence[Sequence[int]]) -> None:
        """Puts rows that were run since the last commit behind each text, and forgets the others.

        Rows are gathered before they are written, so a row may move over another one.

        Args:
            kept: of each text, which of the new rows to keep, ascending.
        """
        base, most = max(self.lengths), max(map(len, kept))
        # Where nothing is kept, or less than elsewhere, slots are written over with themselves.
        pairs = [
            [(base + row, length + place) for place, row in enumerate(rows)]
            for rows, length in zip(kept, self.lengths, strict=True)
        ]
        if any(source != end for row in pairs for source, end in row):
            padded = [row + (most - len(row)) * [row[-1] if row else (0, 0)] for row in pairs]
            self._move(torch.tensor(padded))
        self.lengths = [length + len(rows) for rows, length in zip(kept, self.lengths, strict=True)]
        for layer in self._slots:
            layer.length = max(self.lengths)

    def _move(self, pairs: Tensor) -> None:
        """Copies slots: [B, K, 2] int64, from where and to where."""
        for buffer in self._buffers:
            rows, firsts = _as_rows(buffer)
            sources, ends = (
                (firsts + pairs[..., side].unsqueeze(1)).flatten().to(rows.device)
                for side in (0, 1)
            )
            rows.index_copy_(0, ends, rows.index_select(0, sources))

    def only(self, row: int) -> "KVCache":
        """One text's part of the same buffers, as a cache of its own that begins empty.

        It must not outgrow this cache's capacity; `begin_text` takes its length over.
        """
        part = KVCache(self._shapes, 1)
        part.capacity = self.capacity
        part._hold([buffer[:, row : row + 1] for buffer in self._buffers])
        return part

    def begin_text(self, row: int, length: int) -> None:
        """Says how much of a row `only` has filled for a new text."""
        self.lengths[row] = length
        self.discard()

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with some of the texts alone, ascending: what is behind them moves up."""
        for buffer in self._buffers:
            for place, row in enumerate(rows):
                if place != row:
                    buffer[:, place, :, : self.length] = buffer[:, row, :, : self.length]
        self.lengths, self._batch_size = [self.lengths[row] for row in rows], len(rows)
        self._hold([buffer[:, : len(rows)] for buffer in self._buffers])
        self.discard()


def _as_rows(buffer: Tensor) -> tuple[Tensor, Tensor]:
    """A buffer's slots as rows [X, D], and the row of each text's first slot, [L, B, H, 1] int64
    on the host.

    Whole rows are copied many times faster than elements are gathered.
    """
    num_slots, dim = buffer.shape[3:]
    firsts = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    for axis, (size, stride) in enumerate(zip(buffer.shape[:3], buffer.stride()[:3], strict=True)):
        firsts = firsts + (torch.arange(size) * (stride // dim)).view(-1, *[1] * (3 - axis))
    num_rows = int(firsts.max()) + num_slots
    return buffer.as_strided((num_rows, dim), (dim, 1)), firsts


def attention_mask(
    lengths: Sequence[int], own: Tensor, num_before: int, dtype: torch.dtype
) -> Tensor:
    """What new rows may attend to, in the form of `additive`: [B, 1, R, num_before + E].

    Args:
        lengths: of each text; everything in it may be attended to.
        own: [B, R, E] bool, of what lies behind all texts, the new rows included.
        num_before: slots of the longest text.
        dtype: of the mask.
    """
    num_texts, num_rows, num_own = own.shape
    shape = (num_texts, 1, num_rows, num_before + num_own)
    mask = torch.zeros(shape, dtype=dtype, device=own.device)
    mask[:, 0, :, num_before:] = additive(own, dtype)
    if min(lengths) < num_before:
        hidden = torch.arange(num_before) >= torch.tensor(lengths).unsqueeze(1)  # [B, S]
        mask[..., :num_before].masked_fill_(
            hidden.to(own.device)[:, None, None], torch.finfo(dtype).min
        )
    return mask


def causal_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Which keys each of the last `num_queries` tokens may attend to, bool [Q, K]."""
    ones = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return ones.tril(num_keys - num_queries)


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """An attention mask in `dtype`: 0 where allowed, the type's lowest value elsewhere.

    Eager and SDPA attention both take this form: bool [..., Q, K] → [..., Q, K].
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)
