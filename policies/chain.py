"""A chain of one length.

Source: speculative decoding, Leviathan et al. 2022, https://arxiv.org/abs/2211.17192; the paper's
gamma is the length here.
Differs from the paper: an optional stop rule; at a temperature above 0 the children may be the
most likely tokens instead of drawn ones.
"""

from typing import ClassVar

from torch import Tensor

from adaeagle.policy import Budget, Context, ProposalMode, StopRule
from adaeagle.ranges import at_least
from adaeagle.search_space import Int, SearchSpace, StopRuleChoice
from adaeagle.tree import DraftTree
from policies.support.shape import Shape


class Chain(Shape):
    """Drafts up to `length` tokens in a row.

    Args:
        length: most drafted tokens, one draft forward each.
        stop: ends a chain early.
        proposal: at a temperature above 0, `draw` (standard speculative sampling) or `top_k`.
    """

    search_space: ClassVar[SearchSpace] = {"length": Int(1, 16), "stop": StopRuleChoice()}

    def __init__(
        self, length: int = 12, stop: StopRule | None = None, proposal: ProposalMode = "draw"
    ) -> None:
        at_least(1, length=length)
        if proposal not in ("draw", "top_k"):
            raise ValueError(f"proposal must be 'draw' or 'top_k', got {proposal!r}")
        super().__init__(stop)
        self.shares_prefix = stop is None
        self.length = length
        self.proposal = proposal

    def limits(self, context: Context) -> Budget:
        return Budget(depth=self.length, width=1)

    def children(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        return frontier.new_ones(frontier.shape)
