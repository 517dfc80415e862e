"""The preallocated cache: what attention is handed, growth, and compaction in place."""

import pytest
import torch
from torch import Tensor

from adaeagle.models.kv_cache import BUCKET, KVCache, LayerShape, additive, causal_mask


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


def test_reserve_adds_a_bucket_and_keeps() -> None:
    cache = KVCache(LAYERS, capacity=4)
    fill(cache, LAYERS, [0, 1, 2, 3])
    assert cache.capacity == 4
    fill(cache, LAYERS, [4])
    assert cache.capacity == 5 + BUCKET
    fill(cache, LAYERS, list(range(5, 80)))
    assert cache.capacity == 80 + BUCKET
    assert held(cache, LAYERS) == list(range(80))


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
def test_commit_moves_rows_together(slots: list[int], expected: list[int]) -> None:
    cache = KVCache(LAYERS, capacity=8)
    fill(cache, LAYERS, [0, 1])
    cache.commit([[0, 1]])
    fill(cache, LAYERS, list(range(2, 8)))
    cache.commit([[slot - 2 for slot in slots]])
    assert held(cache, LAYERS) == expected
    fill(cache, LAYERS, [9])
    assert held(cache, LAYERS) == [*expected, 9]


def fill_rows(cache: KVCache, rows: list[list[int]]) -> None:
    """The same number of slots of each text."""
    cache.reserve(len(rows[0]))
    for number, layer in enumerate(LAYERS):
        keys, values = zip(*(states(layer, slots) for slots in rows), strict=True)
        cache.update(torch.cat(keys), torch.cat(values), number)


def held_rows(cache: KVCache) -> list[list[int]]:
    """The slot numbers of each text."""
    every = []
    for own in cache.append(0):
        assert torch.equal(own.keys[:, :1, :, :1], -own.values[:, :1, :, :1])
        every.append(own.keys[:, 0, :, 0].int())
    assert all(torch.equal(slots, every[0]) for slots in every)
    rows = every[0].tolist()
    return [row[:length] for row, length in zip(rows, cache.lengths, strict=True)]


def test_texts_have_lengths_of_their_own() -> None:
    cache = KVCache(LAYERS, capacity=4, batch_size=3)
    fill_rows(cache, [[0, 1, 2], [10, 11, 12], [20, 21, 22]])
    cache.commit([[0], [0, 2], []])
    assert (cache.lengths, cache.length) == ([1, 2, 0], 2)
    fill_rows(cache, [[3, 4], [13, 14], [23, 24]])
    cache.commit([[0, 1], [1], [1]])
    assert held_rows(cache) == [[0, 3, 4], [10, 12, 14], [24]]
    cache.commit([[], [], []])
    assert held_rows(cache) == [[0, 3, 4], [10, 12, 14], [24]]


def test_a_text_takes_the_place_of_another() -> None:
    cache = KVCache(LAYERS, capacity=8, batch_size=2)
    fill_rows(cache, [[0, 1, 2], [10, 11, 12]])
    cache.commit([[0, 1, 2], [0]])
    cache.begin_text(0, 0)
    own = cache.only(0)
    fill(own, LAYERS, [5, 6])
    cache.begin_text(0, 2)
    assert held_rows(cache) == [[5, 6], [10]]
    assert cache.length == 2


def test_texts_that_ended_leave() -> None:
    cache = KVCache(LAYERS, capacity=4, batch_size=4)
    fill_rows(cache, [[0, 1, 2], [10, 11, 12], [20, 21, 22], [30, 31, 32]])
    cache.commit([[0, 1, 2], [0], [0, 1], [1]])
    cache.keep([1, 3])
    assert held_rows(cache) == [[10], [31]]
    assert cache.length == 1
    fill_rows(cache, [[13, 14, 15, 16], [33, 34, 35, 36]])  # more than there was room for
    cache.commit([[0, 3], [2]])
    assert held_rows(cache) == [[10, 13, 16], [31, 35]]


def test_capacity_is_checked() -> None:
    with pytest.raises(ValueError, match="capacity must be >= 1, got 0"):
        KVCache(LAYERS, capacity=0)


def test_masks() -> None:
    allowed = causal_mask(2, 4, torch.device("cpu"))
    assert allowed.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    mask = additive(allowed, torch.float16)
    assert mask.dtype == torch.float16
    assert mask.tolist() == [[0, 0, 0, torch.finfo(torch.float16).min], [0, 0, 0, 0]]
