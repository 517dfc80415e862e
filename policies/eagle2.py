"""EAGLE-2: grow the tree by the head's confidence, then verify its likeliest nodes.

Source: EAGLE-2, Li et al. 2024, https://arxiv.org/abs/2406.16858. The official code's settings
(total_token T, depth D, top_k K) are (nodes T - 1, depth D + 1, width K) here; the defaults are
its T=60, D=5, K=10.
Differs from the code: among equal scores the earlier node wins, a parent before its child, where
the official rerank can lose the parent of a chosen node.
"""

from torch import Tensor

from adaeagle.policy import Budget, Context, StopRule
from adaeagle.tree import DraftTree, likeliest
from policies.shape import Shape


class Eagle2(Shape):
    """Expands the `width` likeliest nodes of each level, then keeps the `nodes` likeliest of all.

    Args:
        depth: draft forwards.
        width: nodes expanded by each, and children of each.
        nodes: drafted tokens sent to verification.
        stop: closes nodes of the beam early.
    """

    def __init__(
        self, depth: int = 6, width: int = 10, nodes: int = 59, stop: StopRule | None = None
    ) -> None:
        for name, value in (("depth", depth), ("width", width), ("nodes", nodes)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        super().__init__(stop)
        self.depth = depth
        self.width = width
        self.nodes = nodes

    def limits(self, context: Context) -> Budget:
        return Budget(depth=self.depth, width=self.width, nodes=self.nodes)

    def children(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        if len(tree) == 0:
            return frontier.new_full(frontier.shape, self.width)
        scores = tree.path_log_probs.gather(1, frontier)
        return likeliest(scores, self.width) * self.width
