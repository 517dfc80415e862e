"""One length for all texts side by side: the one that makes the most tokens a second.

Source: SmartSpec / TurboSpec, Liu et al. 2024, https://arxiv.org/abs/2406.14066: tokens to be
expected from a moving average of acceptance, over a round's measured seconds at this batch size.
Differs from the paper: seconds are of a measured table in place of a fitted line; the average
returns to where it began while nothing is drafted, so that it is tried once more.
"""

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.policy import Budget, Context, Outcome, Policy
from adaeagle.ranges import at_least
from adaeagle.search_space import Float, Int, SearchSpace
from adaeagle.tree import DraftTree
from policies.support.batch_rounds import AcceptanceRate, BatchCosts, best_length


class Goodput(Policy):
    """Drafts chains of the length that pays best, none among them.

    Args:
        length: longest.
        cost: the machine's cost table, measured with `--batch-sizes`: a file, or itself.
        memory: weight of the past in the accepted share.
    """

    scope = "batch"
    learns = True
    proposal = "draw"
    search_space: ClassVar[SearchSpace] = {"length": Int(1, 16), "memory": Float(0.5, 0.99)}

    def __init__(
        self, length: int = 8, cost: str | Path | CostModel = "mini", memory: float = 0.95
    ) -> None:
        at_least(1, length=length)
        self.length = length
        self._costs = BatchCosts(cost, length)
        self._rate = AcceptanceRate(memory)

    def reset(self) -> None:
        self._rate.reset()

    def plan(self, context: Context) -> Budget:
        limits = (context.remaining - 1).clamp(max=self.length).tolist()
        seconds = self._costs.at(context.num_tokens.tolist())
        return Budget(depth=best_length(self._rate.value, limits, seconds)[0])

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        return frontier.new_ones(frontier.shape)

    def observe(self, outcome: Outcome) -> None:
        self._rate.observe(outcome)
