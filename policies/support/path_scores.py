"""Scores of whole paths in a growing tree, each node scored once.

Shapes: P rounds side by side, N drafted nodes, M of them new, F frontier nodes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from adaeagle.tree import DraftTree


class PathScores:
    """Scores of paths, from scores of nodes.

    Args:
        score: of nodes, rows [P, M] of a tree → [P, M].
        join: makes the score of a path of its parent's path's and its last node's.
        root: the score of a path of no node.
    """

    def __init__(
        self,
        score: Callable[[DraftTree, Tensor], Tensor],
        join: Callable[[Tensor, Tensor], Tensor],
        root: float = 0.0,
    ) -> None:
        self._score = score
        self._join = join
        self._root = root
        self._scores = torch.empty(0)  # [P, 1 + N], one column in front for no node

    def clear(self) -> None:
        """Begins a round."""
        self._scores = torch.empty(0)

    def of(self, tree: DraftTree) -> Tensor:
        """Of every node, [P, N]."""
        if self._scores.ndim == 1:
            self._scores = tree.log_probs.new_full((tree.num_rounds, 1), self._root)
        start = self._scores.shape[1] - 1
        if start < len(tree):
            rows = torch.arange(start, len(tree), device=self._scores.device)
            above = self._scores.gather(1, tree.parents[:, start:] + 1)
            new = self._join(above, self._score(tree, rows.expand(tree.num_rounds, -1)))
            self._scores = torch.cat((self._scores, new), dim=1)
        return self._scores[:, 1:]
