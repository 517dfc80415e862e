"""Run what earns its time, and verify the nodes whose tokens pay for their place.

Source: our own, on three published ideas. BASTION (arXiv 2605.29727) and CaDDTree (arXiv
2606.01813) verify nodes in the order of their path probability while each brings more than it
costs. SuffixDecoding (Oliaro et al. 2024, https://arxiv.org/abs/2411.04975) weighs look-ups by the
tokens that they are expected to bring. SAM-Decoding (Hu et al. 2024,
https://arxiv.org/abs/2411.10666) leaves the network out where a long part of the text is repeated.
Differs from them: one measure decides about all three. A token is worth what plain decoding takes
for it, divided by `speedup`; a draft forward is made where the tokens that it is expected to add
beyond those looked up are worth more than its seconds; of all nodes, whoever proposed them, the
number of likeliest ones is verified that leaves most, past the steps of a staircase of costs.

Shapes: P rounds side by side, N drafted nodes, F frontier nodes, W opened nodes, C children.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.cost.model import CostModel
from adaeagle.policy import Budget, Context, Policy
from adaeagle.search_space import Float, Int, SearchSpace
from adaeagle.tree import UNLIKELY, DraftTree, Level, likeliest
from policies.support.round_costs import RoundCosts, TreeCosts


class MarginalTree(Policy):
    """Drafts and verifies by expected tokens a second, with any drafter.

    A node's chance is made of the network's probability and the look-up's score, see `chances_of`.
    Scores must be chances, as those of `suffix(score='chance')`, or lengths of matches.

    Args:
        cost: the machine's cost table: a file, or itself.
        speedup: over plain decoding, which a round must keep up: the tokens that the time of a
            plain step has to bring.
        hope: the chance that a network's best child of an accepted node is accepted as well.
        depth: most levels.
        width: most nodes expanded in one level, and children of each.
    """

    search_space: ClassVar[SearchSpace] = {
        "speedup": Float(1.0, 4.0),
        "hope": Float(0.1, 0.9),
        "width": Int(1, 8),
    }

    def __init__(
        self,
        cost: str | Path | CostModel = "mini",
        speedup: float = 2.0,
        hope: float = 0.5,
        depth: int = 16,
        width: int = 4,
    ) -> None:
        for name, value in (("speedup", speedup), ("hope", hope)):
            if not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        for name, value in (("depth", depth), ("width", width)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.cost = cost if isinstance(cost, CostModel) else CostModel.load(cost)
        self.speedup, self.hope = speedup, hope
        self.depth, self.width = depth, width
        self._costs = RoundCosts(self.cost, depth)
        self._contexts: list[int] = []  # [P] tokens before the pending one

    def plan(self, context: Context) -> Budget:
        self._contexts = [tokens - 1 for tokens in context.num_tokens.tolist()]
        return Budget(depth=self.depth, width=self.width)

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        if len(tree) == 0:
            return torch.full_like(frontier, self.width)
        chances = survival(tree).gather(1, frontier)
        is_open = chances > self._in_tokens(lambda costs: [costs.node], chances)
        if tree.scores is None:  # a network alone
            is_open &= self._earns(chances * self.hope)
        return likeliest(chances.masked_fill(~is_open, -torch.inf), self.width) * self.width

    def runs_network(self, tree: DraftTree, rows: Tensor, found: Level) -> Tensor:
        assert found.scores is not None
        above = torch.ones_like(rows, dtype=torch.float32)
        if len(tree) > 0:
            above = survival(tree).gather(1, rows)
        looked_up = chances_of(found.log_probs, found.scores).amax(2)
        return self._earns(above * (1 - looked_up) * self.hope)

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        chances = survival(tree)
        most = len(tree)
        spent = self._in_tokens(lambda costs: [costs.paths.seconds[0], *costs.verified], chances)
        earned = F.pad(chances.sort(1, descending=True).values.clamp(min=0).cumsum(1), (1, 0))
        counts = (earned - spent[:, : most + 1]).argmax(1)
        return likeliest(chances, counts)

    def _earns(self, tokens: Tensor) -> Tensor:
        """The nodes for which a draft forward is made, bool [P, W].

        Args:
            tokens: [P, W] that a forward is expected to add after each node.
        """
        best, order = tokens.sort(dim=1, descending=True)
        spent = self._in_tokens(lambda costs: costs.widths, tokens)[:, : tokens.shape[1]]
        left = best.cumsum(1) - spent
        count = torch.where(left.amax(1) > 0, left.argmax(1) + 1, 0)
        is_run = torch.arange(tokens.shape[1], device=tokens.device) < count.unsqueeze(1)
        return torch.zeros_like(is_run).scatter(1, order, is_run)

    def _in_tokens(self, part: Callable[[TreeCosts], list[float]], like: Tensor) -> Tensor:
        """Seconds as the tokens that they must bring: [P, ...]."""
        rows = []
        for context in self._contexts:
            costs = self._costs.tree(context, max(self.width, like.shape[1]))
            rate = self.speedup / costs.paths.seconds[0]
            rows.append([seconds * rate for seconds in part(costs)])
        return torch.tensor(rows, device=like.device)


def survival(tree: DraftTree) -> Tensor:
    """The chance that each node and its whole path are accepted, [P, N]; -inf of padding."""
    log_probs = tree.log_probs.masked_fill(~tree.valid, UNLIKELY)
    scores = None if tree.scores is None else tree.scores.masked_fill(~tree.valid, -torch.inf)
    found = torch.ones_like(log_probs)
    start = 0
    for level in tree.levels:
        rows = slice(start, start + level[0] * level[1])
        own = [
            None if values is None else values[:, rows].view(len(values), *level)
            for values in (log_probs, scores)
        ]
        assert own[0] is not None
        above = F.pad(found, (1, 0), value=1.0).gather(1, tree.parents[:, rows] + 1)
        found[:, rows] = above * chances_of(own[0], own[1]).flatten(1)
        start = rows.stop
    return found.masked_fill(~tree.valid, -torch.inf)


def chances_of(log_probs: Tensor, scores: Tensor | None) -> Tensor:
    """The chance of children whose parent is accepted, [P, W, C].

    As SmolLM2 accepts them: what both propose fails where either would, independently; what one of
    them leaves out is less likely for it.

    Args:
        log_probs: the network's.
        scores: the look-up's; None: nothing was looked up.
    """
    drafted = torch.where(log_probs > UNLIKELY, log_probs.exp(), 0.0)
    if scores is None:
        return drafted
    looked_up = torch.where(scores < 1, scores, scores / (scores + 2)).clamp(min=0)
    either = 1 - (1 - drafted) * (1 - looked_up)
    alone = drafted * (1 - looked_up.amax(2, keepdim=True))
    was_run = (drafted > 0).any(2, keepdim=True)
    copied = torch.where(was_run, looked_up.square(), looked_up)
    return torch.where(drafted > 0, torch.where(looked_up > 0, either, alone), copied)
