"""One verification budget between texts: the likeliest of all their nodes.

Source: TETRIS, Wu et al. 2025, https://arxiv.org/abs/2502.15197, the likeliest `total` of all
texts' tokens; vLLM's `verify_adaptive`, as many as make the most tokens a second; AdaServe, Li et
al. 2025, https://arxiv.org/abs/2501.12162, where every text first gets what it must make.
Differs from them: it takes trees as well, of any policy. Which nodes are left out depends on their
own probabilities, which is lossless where children are a fixed function of the draft distribution
and changes the text where they are drawn: policies that draw are refused.

Shapes: P texts side by side, N drafted nodes of each.
"""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.policy import Budget, Context, Needs, Policy, PolicyWrapper
from adaeagle.ranges import at_least
from adaeagle.search_space import Float, Int, SearchSpace
from adaeagle.tree import DraftTree, likeliest
from policies.support.batch_rounds import BatchCosts


class BatchSelect(PolicyWrapper):
    """Verifies the likeliest nodes of all texts together.

    Args:
        policy: what each text drafts; it must propose `top_k`.
        total: nodes verified in all; None: as many as make the most tokens a second, by `cost`.
        floor: tokens that each text is to expect of a round before others get more.
        cost: the machine's cost table, measured with `--batch-sizes`: a file, or itself.
    """

    scope = "batch"
    needs = Needs(log_probs=True)
    search_space: ClassVar[SearchSpace] = {
        "total": Int(1, 256, log=True),
        "floor": Float(1.0, 4.0),
    }

    def __init__(
        self,
        policy: Policy,
        total: int | None = None,
        floor: float = 1.0,
        cost: str | Path | CostModel | None = None,
    ) -> None:
        if policy.proposal != "top_k":
            raise ValueError(
                "policy must have proposal='top_k': a drawn token may not be left out by its own "
                f"probability, got {policy.proposal!r} of {type(policy).__name__}"
            )
        if (total is None) == (cost is None):
            raise ValueError(f"one of total and cost must be given, got {total} and {cost}")
        at_least(0, total=total or 0)
        super().__init__(policy)
        self.static_shape = False
        self.total = total
        self.floor = floor
        self._costs = None if cost is None else BatchCosts(cost, 1)
        self._contexts: list[int] = []

    def plan(self, context: Context) -> Budget:
        self._contexts = context.num_tokens.tolist()
        return super().plan(context)

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        chosen = super().select(tree, budget)
        scores = tree.path_log_probs.exp().masked_fill(~chosen, -torch.inf)
        first = _reaching(scores, self.floor - 1)
        left = scores.masked_fill(first, -torch.inf)
        total = self._best_total(scores[first], left) if self.total is None else self.total
        most = max(0, total - int(first.sum()))
        # Texts end to end: a parent stands before its children, which are no likelier.
        return first | likeliest(left.reshape(1, -1), most).view_as(first)

    def _best_total(self, first: Tensor, left: Tensor) -> int:
        """How many nodes make the most tokens a second; what was drafted is spent either way.

        Args:
            first: probabilities of the nodes that are taken in any case.
            left: [P, N] of the others, -inf where there is none.
        """
        assert self._costs is not None
        others = left[left > -torch.inf].sort(descending=True).values
        added = torch.cat((first.sum().view(1), others)).cumsum(0).double()
        rest = self._costs.at(self._contexts, len(first) + len(others)).rest
        seconds = torch.tensor(rest[len(first) : len(first) + len(added)], dtype=torch.float64)
        return len(first) + int(((len(left) + added.cpu()) / seconds).argmax())


def _reaching(scores: Tensor, least: float) -> Tensor:
    """The likeliest nodes of each text until they add up to `least`: [P, N] → bool [P, N]."""
    ranked = scores.clamp(min=0).sort(dim=1, descending=True).values
    is_short = ranked.cumsum(1) - ranked < least
    return likeliest(scores, is_short.sum(1))
