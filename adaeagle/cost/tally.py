"""From the times of rounds to a cost model.

The machine's speed changes while it is measured, on shared machines by a third within a second.
Shapes take turns, so where some rounds in a row are all slower than rounds of their shapes are
elsewhere, it was the machine: that is divided out before medians are taken.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from statistics import median
from typing import Any

from adaeagle.cost.grid import Grid
from adaeagle.cost.model import CostModel, Parts
from adaeagle.cost.profiler import RoundTimes, TextTimes
from adaeagle.cost.quality import Quality
from adaeagle.cost.table import Table

Cell = tuple[str, int, int]
"""Table, size and context."""

Sample = tuple[Cell, float]
"""Seconds measured for a cell."""

MOMENT = 5
"""Rounds in a row that find the machine at one speed."""

SWEEPS = 3
"""How often medians and speeds are found from each other; more change nothing."""


class Tally:
    """The samples of every cell, as texts come in.

    Args:
        grid: the cells there are.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._cells = [(*cell, context) for cell in grid.cells() for context in grid.contexts]
        self._counts: defaultdict[Cell, int] = defaultdict(int)
        self._moments: list[list[Sample]] = []
        self._prefills: list[Sample] = []
        self.num_texts = 0
        self.num_rounds = 0
        self.seconds = 0.0
        self.ended = ""  # the latest text, UTC

    def add(self, text: TextTimes) -> None:
        self.num_texts += 1
        self.seconds += text.seconds
        self.ended = max(self.ended, text.ended)
        self._prefills += [
            (("prefill", 0, text.prompt_tokens), text.prefill_seconds),
            (("draft_prefill", 0, text.prompt_tokens), text.draft_prefill_seconds),
        ]
        if text.context is None:
            return
        self.num_rounds += len(text.rounds)
        for start in range(0, len(text.rounds), MOMENT):
            rounds = text.rounds[start : start + MOMENT]
            moment = [sample for found in rounds for sample in _samples(found, text.context)]
            self._moments.append(moment)
            for (name, size, context), _ in moment:
                # How many tokens a first forward takes in is the text's affair.
                self._counts[name, 1 if name.endswith(".first") else size, context] += 1

    def share(self, num_samples: int) -> float:
        """How much of `num_samples` in every cell is there; 1: all of it."""
        counts = [min(num_samples, self._counts[cell]) for cell in self._cells]
        return sum(counts) / (num_samples * len(counts))

    def quality(self) -> Quality:
        """How far the table of the samples so far can be relied on."""
        halves = []
        for first in (0, 1):
            half = copy(self)
            half._moments = self._moments[first::2]
            with suppress(ValueError):  # a cell is empty
                halves.append(half.model({}))
        return Quality.of(self.model({}), halves)

    def model(self, about: dict[str, Any]) -> CostModel:
        """The medians so far; a tree of no nodes is a plain step, as a chain of none is.

        Raises:
            ValueError: a cell is empty.
        """
        tables: defaultdict[str, dict[tuple[int, int], list[float]]] = defaultdict(dict)
        gathered = _gathered([*steadied(self._moments), self._prefills])
        for (name, size, context), samples in gathered.items():
            tables[name][size, context] = samples
        for kind in ("chain", "tree"):
            _fill_first(tables[f"{kind}.first"], self.grid.contexts)
        for part in ("verify", "other"):
            plain = {key: found for key, found in tables[f"chain.{part}"].items() if key[0] == 0}
            tables[f"tree.{part}"] |= plain
        chain, tree = (
            Parts(**{part: Table.of(tables[f"{kind}.{part}"]) for part in Parts.__slots__})
            for kind in ("chain", "tree")
        )
        prefill, draft_prefill = (Table.of(tables[key]) for key in ("prefill", "draft_prefill"))
        return CostModel(chain, tree, prefill, draft_prefill, about)


def _samples(found: RoundTimes, context: int) -> Iterator[Sample]:
    """What one round tells, booked to a context of the grid."""
    kind = "tree" if found.is_tree else "chain"
    forwards = zip(found.widths, found.forward_seconds, strict=True)
    for place, (width, seconds) in enumerate(forwards):
        name = ("first", "second", "next")[min(place, 2)]
        yield (f"{kind}.{name}", width if place else min(found.caught_up, 2), context), seconds
    yield (f"{kind}.verify", found.nodes, context), found.verify_seconds
    yield (f"{kind}.other", found.nodes, context), found.other_seconds


def _fill_first(samples: dict[tuple[int, int], list[float]], contexts: Iterable[int]) -> None:
    """Lends samples where a draft model is so good, or so bad, that one of the sizes never ran."""
    for context in contexts:
        for size, other in ((1, 2), (2, 1)):
            lent = samples.get((other, context))
            if (size, context) not in samples and lent is not None:
                samples[size, context] = lent


def steadied(moments: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
    """The samples as a machine of constant speed, the typical one, would have given them.

    A moment's slowness is the median of its samples, each as a multiple of its cell's median.
    """
    steady = [list(moment) for moment in moments]
    for _ in range(SWEEPS):
        medians = {cell: median(samples) for cell, samples in _gathered(steady).items()}
        slowness = [
            median([seconds / medians[cell] for cell, seconds in moment if medians[cell]] or [1.0])
            for moment in moments
        ]
        typical = median(slowness or [1.0])
        steady = [
            [(cell, seconds * typical / slow) for cell, seconds in moment]
            for moment, slow in zip(moments, slowness, strict=True)
        ]
    return steady


def _gathered(moments: Iterable[Iterable[Sample]]) -> dict[Cell, list[float]]:
    cells: defaultdict[Cell, list[float]] = defaultdict(list)
    for moment in moments:
        for cell, seconds in moment:
            cells[cell].append(seconds)
    return cells
