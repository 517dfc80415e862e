"""Grow and cut the tree by a learned score in place of the joint probability.

Source: C2T, Huo et al. 2025, https://arxiv.org/abs/2502.13652: EAGLE-2's tree, scored by a small
network on joint probability, entropy and depth; what scores below a threshold is left out.
Differs from the paper, which we know from reports: a node scores at most what its parent scores, so
that every choice by score is a tree.

Shapes: P rounds side by side, N drafted nodes, F frontier nodes.
"""

import math
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from adaeagle.identity import Identify
from adaeagle.policy import Budget, Context, StopRule
from adaeagle.ranges import at_least, in_unit
from adaeagle.search_space import Float, Int, SearchSpace
from adaeagle.tree import DraftTree, likeliest
from policies.support.path_scores import PathScores
from policies.support.shape import Shape
from predictors.acceptance.c2t import C2TPredictor
from predictors.base import load_as


class C2T(Shape):
    """Expands the `width` best nodes of each level, then keeps the `nodes` best of all.

    Args:
        predictor: the scorer: its folder, a bundled one, or itself.
        depth: draft forwards.
        width: nodes expanded by each, and children of each.
        nodes: drafted tokens sent to verification, at most.
        threshold: least score of a node, a probability of acceptance in [0, 1).
        stop: closes nodes early.
    """

    search_space: ClassVar[SearchSpace] = {
        "depth": Int(1, 10),
        "width": Int(2, 10),
        "nodes": Int(4, 59),
        "threshold": Float(0.001, 0.5, log=True),
    }

    def __init__(
        self,
        predictor: str | Path | C2TPredictor = "mini/c2t",
        depth: int = 6,
        width: int = 10,
        nodes: int = 59,
        threshold: float = 0.0,
        stop: StopRule | None = None,
    ) -> None:
        at_least(1, depth=depth, width=width, nodes=nodes)
        in_unit(threshold=threshold, with_one=False)
        super().__init__(stop)
        self.predictor = load_as(C2TPredictor, predictor)
        self.needs = self.needs | self.predictor.needs
        self.static_shape = stop is None and threshold == 0
        self.depth = depth
        self.width = width
        self.nodes = nodes
        self.threshold = threshold
        self._least = math.log(threshold) - math.log1p(-threshold) if threshold > 0 else -math.inf
        self._paths = PathScores(self.predictor.scorer().log_odds, torch.minimum, root=math.inf)

    def check(self, identify: Identify) -> None:
        self.predictor.check(identify())
        super().check(identify)

    def limits(self, context: Context) -> Budget:
        self._paths.clear()
        return Budget(depth=self.depth, width=self.width, nodes=self.nodes)

    def children(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        if len(tree) == 0:
            return frontier.new_full(frontier.shape, self.width)
        return likeliest(self._scores(tree).gather(1, frontier), self.width) * self.width

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        return likeliest(self._scores(tree), self.nodes)

    def _scores(self, tree: DraftTree) -> Tensor:
        """[P, N] log-odds, minus infinity for what is left out."""
        scores = self._paths.of(tree)
        return scores.masked_fill((scores < self._least) | ~tree.valid, -torch.inf)
