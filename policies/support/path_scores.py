"""Scores of whole paths in a growing tree, each node scored once.

Shapes: P rounds side by side, N drafted nodes, M of them new, F frontier nodes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from adaeagle.tree import DraftTree
from predictors.layers.in_numpy import Floats, Ints, array, new_of

Score = Callable[[DraftTree, int], Floats]
"""Scores [P, M] of a tree's nodes from a row on."""


class PathScores:
    """Scores of paths, from scores of nodes.

    Args:
        score: of new nodes.
        join: makes the score of a path of its parent's path's and its last node's.
        root: the score of a path of no node.
    """

    def __init__(self, score: Score, join: Callable[[Any, Any], Any], root: float = 0.0) -> None:
        self._score = score
        self._join = join
        self._root = root
        self._scores: Floats | None = None
        self._of_chain = [root]  # the same of one text, while it is a chain

    def clear(self) -> None:
        """Begins a round."""
        self._scores = None
        self._of_chain = [self._root]

    def of_chain(self, tree: DraftTree, score: Callable[[DraftTree], float]) -> float:
        """Of one text's chain, that has grown a token at most since the last call.

        Args:
            tree: the chain.
            score: of its last node.
        """
        scores = self._of_chain
        if len(scores) == len(tree):
            scores.append(float(self._join(scores[-1], score(tree))))
        return scores[len(tree)]

    def of(self, tree: DraftTree) -> Floats:
        """Of every node, [P, N], of a tree that has grown a level at most since the last call."""
        if self._scores is None:  # one column in front, for no node
            self._scores = np.full((tree.num_rounds, 1), self._root, dtype=np.float32)
            if len(self._of_chain) > 1:  # one text, which went on from its chain to a tree
                self._scores = np.array([self._of_chain], dtype=np.float32)
        start = self._scores.shape[1] - 1
        if start < len(tree):
            [parents] = new_of(tree, start, "parents")
            above = _at(self._scores, parents + 1)
            new = self._join(above, self._score(tree, start))
            self._scores = np.concatenate((self._scores, new), axis=1)
        return self._scores[:, 1:]

    def at(self, tree: DraftTree, frontier: Tensor) -> Floats:
        """Of frontier nodes, [P, F]."""
        return _at(self.of(tree), array(frontier))


def _at(values: Floats, columns: Ints) -> Floats:
    """Of each row its own columns, [P, N] at [P, F] → [P, F]."""
    if len(values) == 1:
        return values[:, columns[0]]
    return np.take_along_axis(values, columns, axis=1)
