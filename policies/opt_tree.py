"""Deepen the tree while that still raises the number of tokens expected to be accepted.

Source: OPT-Tree, Wang et al. 2024, https://arxiv.org/abs/2406.17276. With a node's path probability
as its chance of acceptance, the `nodes` likeliest nodes of a draft are its best tree, and their
probabilities add up to the expected accepted length. A level is added as long as the last one
raised that sum by more than a threshold. Defaults (60 nodes, 0.5, at most 10 levels) are those of
the authors' examples.
Differs from the paper: only nodes among the `nodes` likeliest so far are drafted on from, at most
`width` a level with `width` children each; a node outside them has no child inside, so the first
bound loses nothing. We know the paper's rule from its description and have not used its code.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from adaeagle.policy import Budget, Context, Needs, StopRule
from adaeagle.ranges import at_least
from adaeagle.search_space import Float, Int, SearchSpace, StopRuleChoice
from adaeagle.tree import DraftTree, likeliest
from policies.support.shape import Shape


class OptTree(Shape):
    """Drafts levels while each adds more than `threshold` expected tokens to the best tree.

    Args:
        nodes: drafted tokens sent to verification.
        threshold: least gain in expected accepted tokens that pays for one more level, at least 0.
        depth: most draft forwards.
        width: most nodes expanded by one, and children of each.
        stop: closes nodes early.
    """

    needs = Needs(log_probs=True)
    search_space: ClassVar[SearchSpace] = {
        "nodes": Int(1, 64, log=True),
        "threshold": Float(0.01, 1.0, log=True),
        "depth": Int(1, 10),
        "width": Int(1, 10),
        "stop": StopRuleChoice(),
    }

    @classmethod
    def is_feasible(cls, arguments: Mapping[str, Any]) -> bool:
        """No more nodes than are drafted, nor fewer than levels."""
        depth, width, nodes = (arguments[name] for name in ("depth", "width", "nodes"))
        return bool(depth <= nodes <= width + (depth - 1) * width * width)

    def __init__(
        self,
        nodes: int = 60,
        threshold: float = 0.5,
        depth: int = 10,
        width: int = 10,
        stop: StopRule | None = None,
    ) -> None:
        at_least(1, nodes=nodes, depth=depth, width=width)
        at_least(0, threshold=threshold)
        super().__init__(stop)
        self.nodes = nodes
        self.threshold = threshold
        self.depth = depth
        self.width = width
        self.static_shape = False
        self._expected = torch.empty(0)  # [P] accepted tokens expected of the tree before its level

    def limits(self, context: Context) -> Budget:
        return Budget(depth=self.depth, width=self.width, nodes=self.nodes)

    def children(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        if len(tree) == 0:
            self._expected = torch.zeros(frontier.shape[0], device=frontier.device)
            return frontier.new_full(frontier.shape, self.width)
        best = tree.path_log_probs.topk(min(self.nodes, len(tree)), dim=1).values
        expected = best.exp().sum(1)
        gain, self._expected = expected - self._expected, expected
        scores = tree.path_log_probs.gather(1, frontier)
        is_kept = likeliest(tree.path_log_probs, self.nodes).gather(1, frontier)
        scores = scores.masked_fill(~is_kept, -torch.inf)
        goes_on = (gain > self.threshold).unsqueeze(1)
        return likeliest(scores, self.width) * goes_on * self.width
