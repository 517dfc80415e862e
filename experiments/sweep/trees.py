"""Static trees fitted to the texts at hand."""

from functools import cached_property

import torch

from adaeagle.cost.model import CostModel
from adaeagle.replay.acceptance_rates import acceptance_by_rank
from adaeagle.replay.replay import replay
from adaeagle.search_space import Tree
from adaeagle.trace.proposer import NotRecordedError
from adaeagle.trace.trace import Trace
from policies.static_tree import StaticTree
from policies.support.tree_search import PricedTree, TreeSearch

NUM_RANKS = 10
NUM_PASSES = 3
NUM_CONTEXTS = 32
"""Of those that occur, evenly by rank: what a tree's rounds are priced at."""


class FittedTrees:
    """The best static trees of every size and depth, and the best of them all.

    Acceptance is counted where rounds begin, which depends on the tree: it is counted at every
    position first, then where the rounds of the tree that was best so far begin. Of the passes, the
    one whose best tree replays fastest counts.

    Args:
        trace: of the texts to fit to.
        cost: prices rounds.
        dimension: how large and deep trees may be.
    """

    def __init__(self, trace: Trace, cost: CostModel, dimension: Tree) -> None:
        self._trace = trace
        self._cost = cost
        self._dimension = dimension

    def paths(self, nodes: int, depth: int) -> list[list[int]]:
        """The tree of at most so many nodes and levels that accepts most."""
        search, _ = self._fitted
        return [list(path) for path in search.tree(nodes, depth)]

    @property
    def best(self) -> PricedTree:
        """The tree of the least time a token."""
        return self._fitted[1]

    @cached_property
    def _fitted(self) -> tuple[TreeSearch, PricedTree]:
        trace, positions = self._trace, self._trace.positions
        most, deepest = self._dimension.nodes.high, self._dimension.depth.high
        shares = torch.linspace(0, 1, NUM_CONTEXTS, dtype=torch.float64)
        contexts = (positions.num_tokens - 1).double().quantile(shares).long()
        rows = torch.arange(len(positions))
        found: list[tuple[float, TreeSearch, PricedTree]] = []
        for _ in range(NUM_PASSES):
            acceptance = acceptance_by_rank(trace, deepest, NUM_RANKS, rows)
            search = TreeSearch(acceptance, most)
            tree = search.best(self._cost, contexts)
            try:
                rounds = replay(StaticTree(tree.paths), trace).rounds
            except NotRecordedError:  # without a draft model the first guess has to do
                found.append((torch.inf, search, tree))
                break
            seconds = float(self._cost.round_seconds(rounds.shapes(positions)).sum())
            found.append((seconds, search, tree))
            rows = rounds.rows
        _, search, tree = min(found, key=lambda one: one[0])
        return search, tree
