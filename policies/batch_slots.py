"""One budget between texts, shared out while they draft: the slots most likely to be reached.

Source: DSpark's scheduling in vLLM (https://github.com/vllm-project/vllm/pull/47808), slots by
chance of survival, and our own cost-aware rule with one price for all texts: a token is drafted
where it is expected to earn more than its seconds earn elsewhere.
Differs from DSpark: survival is the draft's own probability of the path so far, times the share
of tested tokens that is accepted. Whether a token is drafted depends on tokens drafted before it
alone, and whatever is drafted is verified: so tokens may be drawn.

Shapes: P texts side by side.
"""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.policy import Budget, Context, Needs, Outcome, Policy, ProposalMode
from adaeagle.ranges import at_least
from adaeagle.search_space import Float, Int, SearchSpace
from adaeagle.tree import DraftTree
from policies.support.batch_rounds import AcceptanceRate, BatchCosts, BatchSeconds, best_length


class BatchSlots(Policy):
    """Drafts chains, each level for the texts whose next token is among the best.

    Args:
        length: longest chain.
        total: tokens drafted in all; None: as long as they pay, by `cost`.
        floor: tokens that each text is to expect of a round before others get more.
        cost: the machine's cost table, measured with `--batch-sizes`: a file, or itself.
        memory: weight of the past in the accepted share.
        proposal: at a temperature above 0, `draw` or `top_k`.
    """

    scope = "batch"
    learns = True
    needs = Needs(log_probs=True)
    search_space: ClassVar[SearchSpace] = {
        "length": Int(1, 16),
        "total": Int(1, 256, log=True),
        "floor": Float(1.0, 4.0),
    }

    def __init__(
        self,
        length: int = 8,
        total: int | None = None,
        floor: float = 1.0,
        cost: str | Path | CostModel | None = None,
        memory: float = 0.95,
        proposal: ProposalMode = "draw",
    ) -> None:
        at_least(1, length=length)
        if (total is None) == (cost is None):
            raise ValueError(f"one of total and cost must be given, got {total} and {cost}")
        at_least(0, total=total or 0)
        self.length, self.total, self.floor, self.proposal = length, total, floor, proposal
        self._costs = None if cost is None else BatchCosts(cost, length)
        self._rate = AcceptanceRate(memory)
        self._seconds: BatchSeconds | None = None
        self._price = 0.0  # tokens that a second makes at one length for all texts
        self._limits = torch.empty(0)  # [P] most tokens of each text

    def reset(self) -> None:
        self._rate.reset()

    def observe(self, outcome: Outcome) -> None:
        self._rate.observe(outcome)

    def plan(self, context: Context) -> Budget:
        self._limits = (context.remaining - 1).clamp(max=self.length)
        if self._costs is not None:
            self._seconds = self._costs.at(context.num_tokens.tolist())
            limits: list[int] = self._limits.tolist()
            best, self._price = best_length(self._rate.value, limits, self._seconds)
            if best == 0 and self.floor <= 1:
                return Budget(depth=0)
        return Budget(depth=self.length)

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        probs = tree.path_log_probs.exp() * tree.valid  # [P, N]
        alive = probs[:, -1] if len(tree) else torch.ones(len(frontier), device=frontier.device)
        alive = alive * (self._limits.to(alive.device) > tree.num_levels)
        num_drafted = int(tree.valid.sum())
        if self._seconds is None:
            is_open = self._are_ranked(alive, tree.num_levels, num_drafted)
        else:
            is_open = self._are_paid(alive, tree.num_levels, num_drafted)
        is_short = 1 + probs.sum(1) < self.floor
        return ((is_open | is_short) & (alive > 0)).long().unsqueeze(1)

    def _are_ranked(self, alive: Tensor, depth: int, num_drafted: int) -> Tensor:
        """Whose next token is among the best of all that may still be drafted, [P] bool."""
        assert self.total is not None
        ahead = torch.arange(1, self.length - depth + 1, device=alive.device)
        survival = (alive.unsqueeze(1) * self._rate.value**ahead).flatten()  # [P * ahead]
        order = survival.argsort(descending=True, stable=True)[: max(0, self.total - num_drafted)]
        chosen = torch.zeros_like(survival, dtype=torch.bool)
        chosen[order] = True
        return chosen.view(len(alive), -1)[:, 0]

    def _are_paid(self, alive: Tensor, depth: int, num_drafted: int) -> Tensor:
        """Whose next token earns its verification, where the level earns its forward: [P] bool."""
        seconds, rate = self._seconds, self._rate.value
        assert seconds is not None
        spent, most = seconds.rest[num_drafted], int((alive > 0).sum())
        if most == 0:
            return alive > 0
        node = (seconds.rest[num_drafted + most] - spent) / most
        is_open = alive * rate > self._price * node
        tokens, num_nodes, whole = 0.0, num_drafted, float((alive * is_open).sum())
        for ahead in range(1, len(seconds.draft) - depth):
            tokens += whole * rate**ahead
            num_nodes += int(is_open.sum())
            forwards = seconds.draft[depth + ahead] - seconds.draft[depth]
            if tokens > self._price * (forwards + seconds.rest[num_nodes] - spent):
                return is_open
        return torch.zeros_like(is_open)
