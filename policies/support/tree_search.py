"""The static trees that accept most: made by dynamic programming, drafted by `static_tree`.

Source: Sequoia, Chen et al. 2024, https://arxiv.org/abs/2402.12374: with the chance that a child
of each rank is accepted, the best tree of n nodes and d levels follows by dynamic programming over
how a node's budget is shared among its children; n and d are then those of the least time a token.
Differs from the paper: chances depend on the depth as well as the rank; a tree's time is that of
its own level widths under a measured cost table, not of its depth and size alone (of trees of equal
n and d it is still the one that accepts most that is priced). Written from the description.

Shapes: D levels, R ranks, N nodes, M trees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adaeagle.cost.model import CostModel, RoundShapes
from adaeagle.ranges import at_least

TreePath = tuple[int, ...]
Shares = list[list[list[int]]]
"""By level, rank, and nodes left for this rank and those after it: how many its subtree gets."""


@dataclass(frozen=True, slots=True)
class PricedTree:
    """A tree, and what its rounds come to."""

    paths: list[TreePath]  # of sibling ranks from the root down, as `static_tree` reads them
    accepted: float  # drafted tokens accepted in a round, expected
    seconds_per_token: float


class TreeSearch:
    """The best trees of up to so many nodes, for every depth.

    Args:
        acceptance: [D, R] the chance that a child is accepted once its parent is.
        max_nodes: N.
    """

    def __init__(self, acceptance: Tensor, max_nodes: int) -> None:
        if acceptance.ndim != 2 or 0 in acceptance.shape:
            raise ValueError(f"acceptance must be [depths, ranks], got {tuple(acceptance.shape)}")
        at_least(1, max_nodes=max_nodes)
        self.acceptance = acceptance.double()
        self.max_nodes = max_nodes
        self.max_depth = len(acceptance)

    @cached_property
    def _solved(self) -> "list[tuple[Tensor, Shares]]":
        return [self._solve(depth) for depth in range(1, self.max_depth + 1)]

    @property
    def expected(self) -> Tensor:
        """[D, 1 + N] accepted tokens of the best tree of at most so many levels and nodes."""
        return torch.stack([accepted for accepted, _ in self._solved])

    def tree(self, nodes: int, depth: int) -> list[TreePath]:
        """The paths of the best tree of at most so many nodes and levels, the fewest of those.

        Raises:
            ValueError: more are asked for than were searched.
        """
        for name, value, most in (
            ("nodes", nodes, self.max_nodes),
            ("depth", depth, self.max_depth),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"{name} must be in 1..{most}, got {value}")
        paths: list[TreePath] = []
        self._unfold(self._solved[depth - 1][1], 0, (), nodes, paths)
        paths = paths or [(0,)]  # where nothing is ever accepted
        return sorted(paths, key=lambda path: (len(path), path))

    def best(self, cost: CostModel, contexts: Tensor) -> PricedTree:
        """The tree of the least expected time a token.

        Args:
            cost: prices rounds.
            contexts: [Q] int64, tokens committed before each of the rounds to expect.
        """
        sizes = [
            (depth, nodes)
            for depth in range(1, self.max_depth + 1)
            for nodes in range(depth, self.max_nodes + 1)
        ]
        trees = [self.tree(nodes, depth) for depth, nodes in sizes]
        levels, nodes = torch.tensor(sizes).unbind(1)
        accepted = self.expected[levels - 1, nodes]
        seconds = round_seconds(trees, cost, contexts) / (1 + accepted)
        best = int(seconds.argmin())
        return PricedTree(trees[best], float(accepted[best]), float(seconds[best]))

    def _solve(self, depth: int) -> tuple[Tensor, Shares]:
        """Of at most `depth` levels: [1 + N] expected accepted tokens, and how nodes are shared."""
        left = torch.arange(self.max_nodes + 1)
        rest = (left.unsqueeze(1) - left).clamp(min=0)  # [left, given]
        is_possible = left.unsqueeze(1) >= left
        shares: Shares = []
        below = torch.zeros(self.max_nodes + 1, dtype=torch.float64)  # of a node's children
        for level in reversed(range(depth)):
            # A subtree of y nodes is its root and y - 1 nodes below.
            own = torch.cat((below.new_zeros(1), 1 + below[:-1]))
            total = torch.zeros_like(below)
            level_shares: list[list[int]] = []
            for rank in reversed(range(self.acceptance.shape[1])):
                gain = self.acceptance[level, rank] * own + total[rest]
                # A rank without nodes ends its siblings: later ranks need the earlier ones.
                gain[:, 0] = 0.0
                gain = gain.masked_fill(~is_possible, -torch.inf)
                total, given = gain.max(dim=1)  # the first of equal: the fewest nodes
                level_shares.insert(0, given.tolist())
            below = total
            shares.insert(0, level_shares)
        return below, shares

    def _unfold(
        self,
        shares: Shares,
        level: int,
        parent: TreePath,
        nodes: int,
        paths: list[TreePath],
    ) -> None:
        """Adds the paths below `parent`, which has `nodes` nodes to share."""
        if level == len(shares):
            return
        for rank, share in enumerate(shares[level]):
            given = share[nodes]
            if given == 0:
                return
            paths.append((*parent, rank))
            self._unfold(shares, level + 1, (*parent, rank), given - 1, paths)
            nodes -= given


def round_seconds(trees: Sequence[list[TreePath]], cost: CostModel, contexts: Tensor) -> Tensor:
    """The mean seconds of a round of each of M trees, [M].

    Args:
        trees: paths of each.
        cost: prices rounds.
        contexts: [Q] int64, tokens committed before each of the rounds to expect.
    """
    deepest = max(len(paths[-1]) for paths in trees)
    widths = torch.zeros(len(trees), deepest, dtype=torch.int64)
    for row, paths in zip(widths, trees, strict=True):
        for parent in {path[:-1] for path in paths}:
            row[len(parent)] += 1
    nodes = torch.tensor([len(paths) for paths in trees])
    is_tree = nodes > torch.tensor([len(paths[-1]) for paths in trees])
    each = len(contexts)
    shapes = RoundShapes(
        contexts.repeat(len(trees)),
        widths.repeat_interleave(each, dim=0),
        nodes.repeat_interleave(each),
        is_tree.repeat_interleave(each),
    )
    return cost.round_seconds(shapes).view(len(trees), each).mean(1)
