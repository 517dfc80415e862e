"""From the times of rounds to a cost model."""

from collections import defaultdict
from typing import Any

from adaeagle.bench.profile import RoundTimes, TextTimes
from adaeagle.bench.profile_grid import Grid
from adaeagle.cost import CostModel, Parts
from adaeagle.cost_table import Table

Samples = dict[tuple[int, int], list[float]]
"""Seconds by size and context."""


class Tally:
    """The samples of every cell, as texts come in.

    Args:
        grid: the cells there are.
    """

    def __init__(self, grid: Grid) -> None:
        self._contexts = grid.contexts
        self._expected = list(grid.cells())
        self._samples: dict[str, Samples] = defaultdict(lambda: defaultdict(list))
        self.num_texts = 0
        self.num_rounds = 0
        self.seconds = 0.0
        self.ended = ""  # the latest text, UTC

    def add(self, text: TextTimes) -> None:
        self.num_texts += 1
        self.seconds += text.seconds
        self.ended = max(self.ended, text.ended)
        self._samples["prefill"][0, text.prompt_tokens].append(text.prefill_seconds)
        self._samples["draft_prefill"][0, text.prompt_tokens].append(text.draft_prefill_seconds)
        if text.context is not None:
            for found in text.rounds:
                self._add_round(found, text.context)

    def _add_round(self, found: RoundTimes, context: int) -> None:
        self.num_rounds += 1
        kind = "tree" if found.is_tree else "chain"
        for place, (width, seconds) in enumerate(
            zip(found.widths, found.forward_seconds, strict=True)
        ):
            name = "first" if place == 0 else "next"
            self._samples[f"{kind}.{name}"][width, context].append(seconds)
        self._samples[f"{kind}.verify"][found.nodes, context].append(found.verify_seconds)
        self._samples[f"{kind}.other"][found.nodes, context].append(found.other_seconds)

    def share(self, num_samples: int) -> float:
        """How much of `num_samples` in every cell is there; 1: all of it."""
        counts = [
            min(num_samples, len(self._samples[table].get((size, context), ())))
            for table, size in self._expected
            for context in self._contexts
        ]
        return sum(counts) / (num_samples * len(counts))

    def model(self, about: dict[str, Any]) -> CostModel:
        """The medians so far; a tree of no nodes is a plain step, as a chain of none is.

        Raises:
            ValueError: a cell is empty.
        """
        chain, tree = (
            {part: self._samples[f"{kind}.{part}"] for part in Parts.__slots__}
            for kind in ("chain", "tree")
        )
        for part in ("verify", "other"):
            tree[part] = {
                **{(0, context): chain[part].get((0, context), []) for context in self._contexts},
                **tree[part],
            }
        return CostModel(
            chain=Parts(**{part: Table.of(samples) for part, samples in chain.items()}),
            tree=Parts(**{part: Table.of(samples) for part, samples in tree.items()}),
            prefill=Table.of(self._samples["prefill"]),
            draft_prefill=Table.of(self._samples["draft_prefill"]),
            about=about,
        )
