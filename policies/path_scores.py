"""Scores of whole paths in a growing tree, each node scored once.

Shapes: P rounds side by side, N drafted nodes, M of them new.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.tree import DraftTree
from predictors.nodes import Nodes


class PathScores:
    """Scores of paths, from scores of nodes.

    Args:
        join: makes the score of a path of its parent's path's and its last node's; that of no node
            is 0.
    """

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._join = join
        self._scores: Tensor | None = None

    def clear(self) -> None:
        """Begins a round."""
        self._scores = None

    def of(self, tree: DraftTree, score: Callable[[Nodes], Tensor]) -> Tensor:
        """Of every node of a tree that has only grown since the last call: [P, N].

        Args:
            tree: in the drafting loop.
            score: of new nodes [P, M].
        """
        known = tree.log_probs.new_empty(tree.num_rounds, 0)
        if self._scores is not None:
            known = self._scores
        start = known.shape[1]
        if start < len(tree):
            rows = torch.arange(start, len(tree), device=known.device)
            own = score(Nodes.of_tree(tree, rows.expand(tree.num_rounds, -1)))
            above = F.pad(known, (1, 0)).gather(1, tree.parents[:, start:] + 1)
            known = torch.cat((known, self._join(above, own)), dim=1)
            self._scores = known
        return known
