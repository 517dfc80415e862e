"""A preallocated key-value cache that hands attention only what is filled, and compacts in place.

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
    """Keys and values of every layer, in one buffer a device.

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
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.capacity = capacity
        self._buffers: list[Tensor] = []  # each [layers of one shape, B, H, S, D]
        self._groups: list[tuple[list[int], Tensor, Tensor]] = []
        for shape in dict.fromkeys(self._shapes):
            members = [layer for layer, own in enumerate(self._shapes) if own == shape]
            keys, values = (
                torch.zeros(
                    (len(members), self._batch_size, shape.num_heads, capacity, dim),
                    dtype=shape.dtype,
                    device=shape.device,
                )
                for dim in (shape.key_dim, shape.value_dim)
            )
            self._buffers += [keys, values]
            self._groups.append((members, keys, values))
            for layer, own_keys, own_values in zip(members, keys, values, strict=True):
                self._slots[layer].keys, self._slots[layer].values = own_keys, own_values

    def reserve(self, num_new: int) -> None:
        """Makes room for `num_new` more tokens; the buffers double where they are full."""
        needed = self.length + num_new
        if needed <= self.capacity:
            return
        old = self._buffers
        self._allocate(max(needed, 2 * self.capacity))
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
        """Forgets every slot from `length` on."""
        for layer in self._slots:
            layer.length = length

    def keep(self, start: int, slots: Tensor) -> None:
        """Moves the rows at `slots` ([K] int64) to `start`, `start + 1` and on; drops the rest.

        The rows are gathered before they are written, so a row may move over another one.
        """
        end = start + slots.shape[0]
        for buffer in self._buffers:
            buffer[..., start:end, :] = buffer.index_select(3, slots.to(buffer.device))
        self.truncate(end)


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
