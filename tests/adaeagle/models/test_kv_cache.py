"""The preallocated cache: what attention is handed, growth, and compaction in place."""

import pytest
import torch
from torch import Tensor

from adaeagle.models.kv_cache import KVCache, LayerShape, additive, causal_mask


def shape(num_heads: int = 2, key_dim: int = 3, value_dim: int = 3) -> LayerShape:
    return LayerShape(torch.device("cpu"), torch.float32, num_heads, key_dim, value_dim)


def states(layer: LayerShape, slots: list[int]) -> tuple[Tensor, Tensor]:
    """Keys and values that tell their slot."""
    numbers = torch.tensor(slots, dtype=torch.float32).view(1, 1, -1, 1)
    keys = numbers.expand(1, layer.num_heads, -1, layer.key_dim)
    return keys, -numbers.expand(1, layer.num_heads, -1, layer.value_dim)


def fill(cache: KVCache, layers: list[LayerShape], slots: list[int]) -> None:
    cache.reserve(len(slots))
    for number, layer in enumerate(layers):
        cache.update(*states(layer, slots), number)


def held(cache: KVCache, layers: list[LayerShape]) -> list[int]:
    """The slot numbers held, the same in every layer, head and dimension."""
    found = []
    for number, layer in enumerate(layers):
        keys, values = cache.update(*states(layer, []), number)
        assert keys.shape[1:] == (layer.num_heads, cache.length, layer.key_dim)
        assert values.shape[1:] == (layer.num_heads, cache.length, layer.value_dim)
        assert (keys == keys[:, :1, :, :1]).all()
        assert (values == -keys[:, :1, :, :1]).all()
        found.append(keys[0, 0, :, 0].int().tolist())
    assert all(one == found[0] for one in found)
    return [int(slot) for slot in found[0]]


# Two layers alike, one of another shape: buffers are shared by shape.
LAYERS = [shape(), shape(), shape(1, 4, 2)]


def test_attention_reads_what_is_filled() -> None:
    cache = KVCache(LAYERS, capacity=8)
    assert cache.length == 0
    for slots in ([0, 1, 2], [3], [4, 5]):
        fill(cache, LAYERS, slots)
        keys, _ = cache.update(*states(LAYERS[0], []), 0)
        assert keys.shape[2] == cache.length
        assert keys.untyped_storage().nbytes() == 2 * 2 * 8 * 3 * 4  # a view, not a copy
    assert held(cache, LAYERS) == [0, 1, 2, 3, 4, 5]
    assert cache.get_seq_length() == 6


def test_append_is_every_layers_update() -> None:
    layers = [LAYERS[0], LAYERS[2], LAYERS[1]]
    cache = KVCache(layers, capacity=8)
    fill(cache, layers, [0, 1])
    slots = cache.append(3)
    assert cache.length == 5
    for own, layer in zip(slots, layers, strict=True):
        keys, values = states(layer, [2, 3, 4])
        own.new_keys.copy_(keys)
        own.new_values.copy_(values)
        assert own.keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4]
        assert own.values[0, 0, :, 0].tolist() == [0, -1, -2, -3, -4]
    assert held(cache, layers) == [0, 1, 2, 3, 4]


def test_reserve_doubles_and_keeps() -> None:
    cache = KVCache(LAYERS, capacity=4)
    fill(cache, LAYERS, [0, 1, 2, 3])
    assert cache.capacity == 4
    fill(cache, LAYERS, [4])
    assert cache.capacity == 8
    fill(cache, LAYERS, list(range(5, 30)))
    assert cache.capacity == 30
    assert held(cache, LAYERS) == list(range(30))


def test_truncate_forgets() -> None:
    cache = KVCache(LAYERS, capacity=8)
    fill(cache, LAYERS, [0, 1, 2, 3, 4])
    cache.truncate(2)
    fill(cache, LAYERS, [7, 8])
    assert held(cache, LAYERS) == [0, 1, 7, 8]


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        ([2, 4, 7], [0, 1, 2, 4, 7]),
        ([2, 3, 4], [0, 1, 2, 3, 4]),  # nothing moves
        ([3, 4, 5], [0, 1, 3, 4, 5]),  # each row moves over the next one's place
        ([2], [0, 1, 2]),
        ([], [0, 1]),
    ],
)
def test_keep_moves_rows_together(slots: list[int], expected: list[int]) -> None:
    cache = KVCache(LAYERS, capacity=8)
    fill(cache, LAYERS, list(range(8)))
    cache.keep(2, torch.tensor(slots, dtype=torch.int64))
    assert held(cache, LAYERS) == expected
    fill(cache, LAYERS, [9])
    assert held(cache, LAYERS) == [*expected, 9]


def test_capacity_is_checked() -> None:
    with pytest.raises(ValueError, match="capacity must be >= 1, got 0"):
        KVCache(LAYERS, capacity=0)


def test_masks() -> None:
    allowed = causal_mask(2, 4, torch.device("cpu"))
    assert allowed.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    mask = additive(allowed, torch.float16)
    assert mask.dtype == torch.float16
    assert mask.tolist() == [[0, 0, 0, torch.finfo(torch.float16).min], [0, 0, 0, 0]]
