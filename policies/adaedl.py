"""Stop where the draft's entropy promises too little acceptance, with a threshold that follows it.

Source: AdaEDL, Agrawal et al. 2024, https://arxiv.org/abs/2410.18351: 1 - sqrt(gamma H), gamma
0.2, bounds a token's chance of acceptance from below, and drafting stops where the bound falls
below a threshold. After each round, as in Draft & Verify (Zhang et al. 2023,
https://arxiv.org/abs/2309.08168), a moving average of accepted / drafted is held against a target:
below it the threshold rises by a step, else it falls by one, unless the longest draft was accepted
whole; the threshold follows through a second moving average. Target 0.9, averages 0.5 and 0.9,
step 0.01. We have not read the paper itself: constants and update are as public code reports them.
Differs from the paper, as far as known: the token that stops a draft is kept, for its forward is
paid. The first threshold is not fixed there; ours is the middle of the range 0.3 to 0.9 it is said
to sweep. The average begins at its target. "The longest draft" is any that was accepted whole and
that this rule would have gone on from. On trees, drafted and accepted tokens are levels.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from adaeagle.policy import Needs, Outcome, StopRule
from adaeagle.ranges import above, at_least
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree
from policies.support.row_state import for_rows


class AdaEDL(StopRule):
    """Goes on from a node while 1 - sqrt(gamma * entropy) is at least a learned threshold.

    The entropy, in nats, is that of the distribution the node was proposed from.

    Args:
        threshold: the first one of a text, in [0, 1].
        gamma: above 0.
        target: share of drafted tokens to be accepted, in [0, 1].
        step: how far a round pulls the threshold, at least 0; 0 keeps it as it is.
        rate_memory: weight of the past in the accepted share, in [0, 1].
        threshold_memory: weight of the past in the threshold, in [0, 1].
        across_texts: begin a text where the last one ended.
    """

    learns = True
    needs = Needs(entropy=True)

    search_space: ClassVar[SearchSpace] = {
        "threshold": Float(0.05, 0.95),
        "gamma": Float(0.02, 1.0, log=True),
        "target": Float(0.3, 0.99),
        "step": Float(0.001, 0.2, log=True),
    }

    def __init__(
        self,
        threshold: float = 0.6,
        gamma: float = 0.2,
        target: float = 0.9,
        step: float = 0.01,
        rate_memory: float = 0.5,
        threshold_memory: float = 0.9,
        across_texts: bool = False,
    ) -> None:
        shares = {
            "threshold": threshold,
            "target": target,
            "rate_memory": rate_memory,
            "threshold_memory": threshold_memory,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        above(0, gamma=gamma)
        at_least(0, step=step)
        self.first_threshold = threshold
        self.gamma = gamma
        self.target = target
        self.step = step
        self.rate_memory = rate_memory
        self.threshold_memory = threshold_memory
        self.across_texts = across_texts
        self._begin()

    def _begin(self) -> None:
        self.threshold = torch.tensor([self.first_threshold])  # [1], or [P] once a round was seen
        self.rate = torch.tensor([self.target])

    def reset(self) -> None:
        if not self.across_texts:
            self._begin()

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        assert tree.entropies is not None
        return self._is_open(tree.entropies.gather(1, frontier))

    def _is_open(self, entropies: Tensor) -> Tensor:
        threshold = for_rows(self.threshold, entropies.shape[0]).to(entropies.device)
        return 1 - (self.gamma * entropies).sqrt() >= threshold.unsqueeze(1)

    def observe(self, outcome: Outcome) -> None:
        depth, num_accepted = outcome.depth, outcome.num_accepted
        threshold = for_rows(self.threshold, depth.shape[0]).to(depth.device)
        rate = for_rows(self.rate, depth.shape[0]).to(depth.device)
        share = num_accepted / depth.clamp(min=1)
        new_rate = self.rate_memory * rate + (1 - self.rate_memory) * share
        pull = torch.where(new_rate < self.target, self.step, -self.step)
        pull = pull.masked_fill((new_rate >= self.target) & self._ran_out(outcome), 0.0)
        new_threshold = threshold + (1 - self.threshold_memory) * pull
        drafted = depth > 0
        self.rate = torch.where(drafted, new_rate, rate)
        self.threshold = torch.where(drafted, new_threshold, threshold)

    def _ran_out(self, outcome: Outcome) -> Tensor:
        """[P] whether a draft was accepted to its end, and this rule was not what ended it."""
        tree, depth = outcome.tree, outcome.depth
        if tree.entropies is None:  # nothing was drafted
            return torch.ones_like(depth, dtype=torch.bool)
        last = outcome.accepted & (tree.depths == depth.to(tree.depths.device).unsqueeze(1))
        return (last & self._is_open(tree.entropies)).any(dim=1).to(depth.device)

    def state_dict(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "rate": self.rate} if self.across_texts else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.threshold, self.rate = state["threshold"], state["rate"]
