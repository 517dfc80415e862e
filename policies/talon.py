"""Spend a budget of nodes level by level, on nodes not much less likely than their level's best.

Source: TALON, Liu et al. 2026, https://arxiv.org/abs/2601.07353: the first level is the `width`
likeliest tokens; from then on every child is kept whose path probability is at least `mu` times
that of the likeliest child of its level, until the budget is spent. So certain text gets a deep and
narrow tree, uncertain text a shallow and wide one. 60 nodes and mu 0.03 are the paper's.
Differs from the paper: a level that does not fit into what is left of the budget is cut to its
likeliest nodes; a node proposes at most `width` children; drafting ends after `depth` forwards even
if the budget is not spent, where we do not know of a limit in the paper.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from adaeagle.policy import Budget, Context, Needs, StopRule
from adaeagle.ranges import at_least, in_unit
from adaeagle.search_space import Float, Int, SearchSpace, StopRuleChoice
from adaeagle.tree import DraftTree, likeliest
from policies.support.shape import Shape


class Talon(Shape):
    """Keeps, a level at a time, what is likely beside the level's best, up to `nodes` in all.

    Args:
        nodes: drafted tokens kept and sent to verification.
        mu: least path probability of a kept node, as a share of its level's best, in [0, 1].
        depth: most draft forwards.
        width: tokens of the first level, and most children of a node.
        stop: closes nodes early.
    """

    needs = Needs(log_probs=True)
    search_space: ClassVar[SearchSpace] = {
        "nodes": Int(1, 64, log=True),
        "mu": Float(0.001, 1.0, log=True),
        "depth": Int(1, 12),
        "width": Int(1, 10),
        "stop": StopRuleChoice(),
    }

    @classmethod
    def is_feasible(cls, arguments: Mapping[str, Any]) -> bool:
        """No wider or deeper than the budget reaches."""
        return bool(max(arguments["width"], arguments["depth"]) <= arguments["nodes"])

    def __init__(
        self,
        nodes: int = 60,
        mu: float = 0.03,
        depth: int = 12,
        width: int = 10,
        stop: StopRule | None = None,
    ) -> None:
        at_least(1, nodes=nodes, depth=depth, width=width)
        in_unit(mu=mu)
        super().__init__(stop)
        self.nodes = nodes
        self.mu = mu
        self.depth = depth
        self.width = width
        self.static_shape = False
        self._kept = torch.empty(0, 0, dtype=torch.bool)  # [P, N] of the levels judged so far

    def limits(self, context: Context) -> Budget:
        return Budget(depth=self.depth, width=self.nodes, nodes=self.nodes, children=self.width)

    def children(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        if len(tree) == 0:
            self._kept = frontier.new_empty(frontier.shape[0], 0, dtype=torch.bool)
            return frontier.new_full(frontier.shape, self.width)
        kept = self._extend_kept(tree)
        has_left = self._kept.sum(1, keepdim=True) < self.nodes
        return kept * has_left * self.width

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        if len(tree) == 0:
            return tree.valid
        if self._kept.shape[1] < len(tree):  # the last level, which nothing was drafted on from
            self._extend_kept(tree)
        return self._kept

    def _extend_kept(self, tree: DraftTree) -> Tensor:
        """Which nodes of the latest level to keep, [P, F]; adds them to what is kept."""
        scores = tree.path_log_probs[:, self._kept.shape[1] :]
        if tree.num_levels > 1:
            best = scores.amax(1, keepdim=True)
            # In probabilities, so that mu 0 keeps everything; padding is at minus infinity.
            unlikely = (scores - best).exp() < self.mu
            scores = scores.masked_fill(unlikely, -torch.inf)
        kept = likeliest(scores, self.nodes - self._kept.sum(1))
        self._kept = torch.cat((self._kept, kept), dim=1)
        return kept
