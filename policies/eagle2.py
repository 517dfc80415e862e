"""EAGLE-2: grow the tree by the head's confidence, then verify its likeliest nodes.

Source: EAGLE-2, Li et al. 2024, https://arxiv.org/abs/2406.16858. The official code's settings
(total_token T, depth D, top_k K) are (nodes T - 1, depth D + 1, width K) here; the defaults are
its T=60, D=5, K=10.
Differs from the code: among equal scores the earlier node wins, a parent before its child, where
the official rerank can lose the parent of a chosen node.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from adaeagle.policy import Budget, Context, StopRule
from adaeagle.ranges import at_least
from adaeagle.search_space import Int, SearchSpace, StopRuleChoice
from adaeagle.tree import DraftTree, likeliest
from policies.support.shape import Shape


class Eagle2(Shape):
    """Expands the `width` likeliest nodes of each level, then keeps the `nodes` likeliest of all.

    Args:
        depth: draft forwards.
        width: nodes expanded by each, and children of each.
        nodes: drafted tokens sent to verification.
        stop: closes nodes of the beam early.
    """

    search_space: ClassVar[SearchSpace] = {
        "depth": Int(1, 8),
        "width": Int(1, 10),
        "nodes": Int(1, 64, log=True),
        "stop": StopRuleChoice(),
    }

    @classmethod
    def is_feasible(cls, arguments: Mapping[str, Any]) -> bool:
        """No draft forward that no node can be verified of, no more nodes than are drafted."""
        depth, width, nodes = (arguments[name] for name in ("depth", "width", "nodes"))
        return bool(depth <= nodes <= width + (depth - 1) * width * width)

    def __init__(
        self, depth: int = 6, width: int = 10, nodes: int = 59, stop: StopRule | None = None
    ) -> None:
        at_least(1, depth=depth, width=width, nodes=nodes)
        super().__init__(stop)
        self.shares_prefix = stop is None
        self.depth = depth
        self.width = width
        self.nodes = nodes

    def limits(self, context: Context) -> Budget:
        return Budget(depth=self.depth, width=self.width, nodes=self.nodes)

    def children(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        if len(tree) == 0:
            return frontier.new_full(frontier.shape, self.width)
        return likeliest(tree.path_log_probs.gather(1, frontier), self.width) * self.width
