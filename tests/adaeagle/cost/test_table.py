"""Seconds between and beyond the points of a grid."""

import math
from bisect import bisect_right
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle.cost.table import Table


def make_table(sizes: list[int], contexts: list[int], median: Any) -> Table:
    values = torch.as_tensor(median, dtype=torch.float64)
    count = torch.ones(values.shape, dtype=torch.int64)
    return Table(torch.tensor(sizes), torch.tensor(contexts), values, values, values, count)


def at(table: Table, size: int, context: int) -> float:
    return float(table.at(torch.tensor(size), torch.tensor(context)))


TABLE = make_table([1, 4, 6], [100, 300], [[1.0, 3.0], [4.0, 12.0], [5.0, 10.0]])


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("column", [0, 1])
def test_grid_points_are_exact(row: int, column: int) -> None:
    size, context = int(TABLE.sizes[row]), int(TABLE.contexts[column])
    assert at(TABLE, size, context) == float(TABLE.median[row, column])


@pytest.mark.parametrize(
    ("size", "context", "seconds"),
    [
        (2, 100, 2.0),  # between two sizes
        (1, 150, 1.5),  # between two contexts
        (2, 200, (2.0 + 6.0) / 2),  # between both
        (0, 100, 1.0),  # before the first size
        (1, 7, 1.0),  # before the first context
        (8, 100, 6.0),  # beyond the last size
        (1, 400, 4.0),  # beyond the last context
        (9, 300, 10.0),  # where seconds fell, they stay
        (9, 400, 10.0 + 100 * (10.0 - 6.5) / 200),  # beyond both
    ],
)
def test_between_and_beyond(size: int, context: int, seconds: float) -> None:
    assert at(TABLE, size, context) == pytest.approx(seconds)


def test_falling_by_context_never_goes_below_the_last() -> None:
    table = make_table([1], [10, 20], [[5.0, 1.0]])
    assert at(table, 1, 15) == 3.0
    assert at(table, 1, 1000) == 1.0


def line(grid: list[int], values: list[float], point: int) -> float:
    """The rule for one axis, as it is said."""
    if point <= grid[0] or len(grid) == 1:
        return values[0]
    left = min(bisect_right(grid, point) - 1, len(grid) - 2)
    slope = (values[left + 1] - values[left]) / (grid[left + 1] - grid[left])
    if point >= grid[-1]:
        return values[-1] + max(0.0, slope) * (point - grid[-1])
    return values[left] + slope * (point - grid[left])


def random_grid(generator: torch.Generator, first: int, step: int) -> list[int]:
    length = int(torch.randint(1, 6, (), generator=generator))
    steps = torch.randint(1, step, (length,), generator=generator)
    return (first + steps.cumsum(0) - steps[0]).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_many_at_once_equal_one_by_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes, contexts = random_grid(generator, seed % 2, 9), random_grid(generator, 16, 300)
    median = torch.rand(len(sizes), len(contexts), generator=generator, dtype=torch.float64)
    table = make_table(sizes, contexts, median)
    asked_sizes = torch.randint(0, sizes[-1] + 9, (40, 3), generator=generator)
    asked = torch.randint(0, contexts[-1] + 200, (40, 1), generator=generator)

    def expected(size: int, context: int) -> float:
        return line(contexts, [line(sizes, column, size) for column in median.T.tolist()], context)

    found = table.at(asked_sizes, asked)
    assert found.shape == (40, 3)
    assert found.dtype == torch.float64
    for row, context in enumerate(asked[:, 0].tolist()):
        for column, size in enumerate(asked_sizes[row].tolist()):
            assert float(found[row, column]) == pytest.approx(expected(size, context), abs=1e-12)


def test_nothing_costs_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert TABLE.at(none, none).shape == (0,)


def test_of_samples() -> None:
    samples = {
        (2, 10): [4.0, 1.0, 2.0, 3.0, 100.0],
        (2, 20): [5.0],
        (1, 20): [1.0, 2.0],
        (1, 10): [7.0, 7.0],
    }
    table = Table.of(samples)
    assert (table.sizes.tolist(), table.contexts.tolist()) == ([1, 2], [10, 20])
    assert table.median.tolist() == [[7.0, 1.5], [3.0, 5.0]]
    assert (float(table.low[1, 0]), float(table.high[1, 0])) == (2.0, 4.0)
    assert table.count.tolist() == [[2, 2], [5, 1]]


@pytest.mark.parametrize("samples", [{}, {(1, 1): [1.0], (2, 2): [1.0]}, {(1, 1): []}])
def test_a_hole_is_refused(samples: Any) -> None:
    with pytest.raises(ValueError, match="samples must fill the grid"):
        Table.of(samples)


def changed(**change: Tensor) -> dict[str, Any]:
    return {**{name: getattr(TABLE, name) for name in Table.__slots__}, **change}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"sizes": torch.tensor([1, 1, 2])}, "sizes must ascend"),
        ({"contexts": torch.tensor([300, 100])}, "contexts must ascend"),
        ({"contexts": torch.tensor([-1, 100])}, "contexts must ascend from 0"),
        ({"sizes": torch.tensor(1)}, "sizes must ascend"),
        ({"sizes": torch.tensor([1, 2])}, "low must have shape"),
        ({"count": torch.ones(3, 1)}, "count must have shape"),
        ({"median": TABLE.median * math.nan}, "median must be finite"),
        ({"high": -TABLE.median}, "high must be finite and >= 0"),
    ],
)
def test_what_is_no_table(change: dict[str, Tensor], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Table(**changed(**change))


def test_json_keeps_every_bit() -> None:
    table = make_table([1, 3], [5], torch.tensor([[0.1], [1 / 3]]).double())
    again = Table.from_json(table.to_json())
    for name in Table.__slots__:
        assert torch.equal(getattr(again, name), getattr(table, name))
        assert getattr(again, name).dtype == getattr(table, name).dtype
