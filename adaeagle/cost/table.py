"""Measured seconds on a grid, and what lies between and beyond its points.

Shapes: S sizes and C contexts of the grid, G points of either.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

QUARTILES = (0.25, 0.5, 0.75)
REALS, COUNTS = ("low", "median", "high"), ("count",)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Seconds by size (the width of a draft forward, the nodes of a verification) and context.

    Seconds are linear between grid points, in size first and then in context. Below the first point
    they are the first point's; beyond the last they grow as they did between the last two, and stay
    where those fall.
    """

    sizes: Tensor  # [S] int64, ascending, >= 0
    contexts: Tensor  # [C] int64, ascending, >= 0
    low: Tensor  # [S, C] float64, the lower quartile of each cell
    median: Tensor  # [S, C] float64
    high: Tensor  # [S, C] float64, the upper quartile
    count: Tensor  # [S, C] int64 samples; 0 where seconds were stated, not measured

    def __post_init__(self) -> None:
        for name in ("sizes", "contexts"):
            grid = getattr(self, name)
            if grid.ndim != 1 or not len(grid) or int(grid[0]) < 0 or bool((grid.diff() < 1).any()):
                raise ValueError(f"{name} must ascend from 0 or more, got {grid.tolist()}")
        shape = (len(self.sizes), len(self.contexts))
        for name in (*REALS, *COUNTS):
            values = getattr(self, name)
            if tuple(values.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(values.shape)}")
            if not bool((values.isfinite() & (values >= 0)).all()):
                raise ValueError(f"{name} must be finite and >= 0, got {values.tolist()}")

    @classmethod
    def of(cls, samples: Mapping[tuple[int, int], Sequence[float]]) -> "Table":
        """Of the seconds measured at each (size, context); every size at every context."""
        sizes = sorted({size for size, _ in samples})
        contexts = sorted({context for _, context in samples})
        empty = [(s, c) for s in sizes for c in contexts if not samples.get((s, c))]
        if empty or not sizes:
            raise ValueError(f"samples must fill the grid of sizes and contexts, none at {empty}")
        levels = torch.tensor(QUARTILES, dtype=torch.float64)
        rows = [
            [torch.tensor(samples[size, context], dtype=torch.float64) for context in contexts]
            for size in sizes
        ]
        found = [torch.stack([cell.quantile(levels) for cell in row], dim=1) for row in rows]
        low, median, high = torch.stack(found, dim=1)  # each [S, C]
        count = torch.tensor([[len(cell) for cell in row] for row in rows])
        return cls(torch.tensor(sizes), torch.tensor(contexts), low, median, high, count)

    @classmethod
    def stated(cls, sizes: Sequence[int], seconds: Sequence[float]) -> "Table":
        """Of one context, with seconds that nobody measured."""
        if not all(math.isfinite(value) for value in seconds):
            raise ValueError(f"seconds must be finite, got {list(seconds)}")
        values = torch.tensor(seconds, dtype=torch.float64).unsqueeze(1)
        count = torch.zeros(values.shape, dtype=torch.int64)
        return cls(torch.tensor(sizes), torch.tensor([0]), values, values, values, count)

    def at(self, sizes: Tensor, contexts: Tensor) -> Tensor:
        """Seconds at sizes and contexts, int64 of shapes that broadcast: float64."""
        device = contexts.device
        largest = int(sizes.max()) if sizes.numel() else 0
        # A few more sizes than asked for, so that few surfaces serve all that will be.
        by_context = _surface(self, 1 << largest.bit_length(), device)
        segments = torch.searchsorted(by_context.grid, contexts.contiguous(), right=True)
        offsets = contexts - by_context.anchors[segments]
        return by_context.starts[sizes, segments] + by_context.slopes[sizes, segments] * offsets

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in self.__slots__}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Table":
        """What `to_json` gave.

        Raises:
            ValueError: it is no table; also as KeyError or TypeError.
        """
        names = {name: torch.float64 if name in REALS else torch.int64 for name in cls.__slots__}
        return cls(**{name: torch.tensor(raw[name], dtype=kind) for name, kind in names.items()})


@dataclass(frozen=True, slots=True)
class _Lines:
    """Functions linear between the points of a grid, in G + 1 segments.

    Segment 0 lies below the first point, segment k between points k - 1 and k, segment G beyond the
    last; each is a line from its anchor on.
    """

    grid: Tensor  # [G]
    anchors: Tensor  # [G + 1]
    starts: Tensor  # [..., G + 1] the value at each anchor
    slopes: Tensor  # [..., G + 1]

    @classmethod
    def through(cls, grid: Tensor, values: Tensor) -> "_Lines":
        """Functions that take `values` [..., G] at the grid's points."""
        slopes = values.new_zeros(*values.shape[:-1], len(grid) + 1)
        if len(grid) > 1:
            slopes[..., 1:-1] = values.diff() / grid.diff()
            slopes[..., -1] = slopes[..., -2].clamp(min=0)
        starts = torch.cat((values[..., :1], values), dim=-1)
        return cls(grid, torch.cat((grid[:1], grid)), starts, slopes)

    def at(self, points: Tensor) -> Tensor:
        """Values at `points` [X]: [..., X]."""
        segments = torch.searchsorted(self.grid, points, right=True)
        return self.starts[..., segments] + self.slopes[..., segments] * (
            points - self.anchors[segments]
        )


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _surface(table: Table, num_sizes: int, device: torch.device) -> _Lines:
    """A table's seconds by context, a row for each size below `num_sizes`."""
    every_size = torch.arange(num_sizes, device=device)
    by_size = _Lines.through(table.sizes.to(device), table.median.to(device).T)
    return _Lines.through(table.contexts.to(device), by_size.at(every_size).T)
