"""Draft on as long as the tokens to be expected earn their time.

Source: our own, a rule of renewal theory: where a policy earns `rate` tokens a second, one more
draft forward pays while the tokens it is expected to add exceed rate x its seconds (and those it
adds to verification). SGLang's throughput-aware controller
(https://github.com/sgl-project/sglang/pull/28045) and CaDDTree (arXiv 2606.01813) maximise tokens
over cost as well, the former from average acceptance, the latter for tree sizes. Here the
expectation is a distribution of this very round: after every drafted token, `predictors.hazard`
estimates how likely the drafted tokens and the next ones are accepted; the cost is the machine's
own, measured. No threshold on confidence, and no rounding.

It looks ahead: a token that does not pay for its forward alone may lead to some that do. The first
token is always drafted, unless the best fixed chain is none at all: what it is says more than what
is known before it, and to stop before it loses 1.4 % of the tokens a second on `mini`.

On trees it decides three things: how deep, by the likeliest path as on a chain; which other nodes
of a level pay for a place in the forward that is made for that one; and, at the end, how many of
the likeliest nodes pay for their verification. All are weighed by the predictor's probabilities of
whole paths, not by the draft's own, at the cost of trees.

Shapes: P rounds side by side, F frontier nodes, K longest chain, N drafted nodes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.identity import Identify
from adaeagle.policy import Context, Needs, StopRule
from adaeagle.ranges import above
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree, likeliest
from policies.support.round_costs import BUCKET, RoundCosts
from predictors.base import load_as
from predictors.hazard.network import HazardPredictor


class CostAware(StopRule):
    """Goes on while the tokens to be expected from going on earn their seconds.

    Args:
        predictor: a `hazard` predictor: its folder, a bundled one, or itself.
        cost: the machine's cost table: a file, or itself.
        rate: tokens that a second must bring; None: what the best fixed chain would make, by the
            predictor's own record of accepted lengths and the cost table.
        patience: a factor on `rate`: below 1 it drafts longer than it pays.
    """

    needs = Needs(log_probs=True)
    search_space: ClassVar[SearchSpace] = {"patience": Float(0.5, 1.5)}

    def __init__(
        self,
        predictor: str | Path | HazardPredictor = "mini/hazard",
        cost: str | Path | CostModel = "mini",
        rate: float | None = None,
        patience: float = 1.0,
    ) -> None:
        if rate is not None and not rate > 0:
            raise ValueError(f"rate must be > 0, got {rate}")
        above(0, patience=patience)
        self.predictor = load_as(HazardPredictor, predictor)
        self.cost = cost if isinstance(cost, CostModel) else CostModel.load(cost)
        self.patience = patience
        self._scorer = self.predictor.scorer()
        self._costs = RoundCosts(self.cost, self.predictor.k_max)
        best_rate, best_length = self._best_fixed()
        self.rate = rate or best_rate
        self._drafts = best_length > 0
        self._contexts: list[int] = []  # [P] tokens before the pending one

    def check(self, identify: Identify) -> None:
        identity = identify()
        self.predictor.check(identity)
        self.cost.check(identity.target_weights, identity.drafter_weights)

    def begin(self, context: Context) -> Tensor | None:
        self._contexts = [tokens - 1 for tokens in context.num_tokens.tolist()]
        self._scorer.begin(context)
        return None if self._drafts else torch.zeros(len(self._contexts), dtype=torch.bool)

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        self._scorer.score(tree)
        open_ = [self._open_nodes(row, tree) for row in range(tree.num_rounds)]
        answers = [
            [node in some for node in nodes]
            for nodes, some in zip(frontier.tolist(), open_, strict=True)
        ]
        return torch.tensor(answers, device=frontier.device)

    def prune(self, tree: DraftTree, chosen: Tensor) -> Tensor:
        if len(tree) == tree.num_levels:  # a chain, whose tokens were weighed with verification
            return chosen
        self._scorer.score(tree)
        survival = torch.tensor([self._scorer.survival(row) for row in range(tree.num_rounds)])
        survival = survival.to(chosen.device).masked_fill_(~chosen, -torch.inf)
        counts = [
            self._costs.tree(at, len(tree)).num_verified(row, self._least_rate)
            for at, row in zip(self._contexts, survival.tolist(), strict=True)
        ]
        return likeliest(survival, torch.tensor(counts, device=chosen.device))

    @property
    def _least_rate(self) -> float:
        """Tokens that a second must bring."""
        return self.rate * self.patience

    def _open_nodes(self, row: int, tree: DraftTree) -> Sequence[int]:
        """The nodes of a round's latest level that go on, the likeliest first."""
        families = self._scorer.latest(row)
        depth = tree.num_levels
        if not families or families[0].depth < depth:  # nothing was drafted in the latest level
            return ()
        survival = self._scorer.survival(row)
        ahead = {node: each.ahead for each in families for node in range(each.best, each.end)}
        best = max(ahead, key=survival.__getitem__)
        if len(tree) == depth:
            costs = self._costs.chain(self._contexts[row])
            is_open = costs.pays(survival[best], ahead[best], depth, self._least_rate)
            return (best,) if is_open else ()
        tree_costs = self._costs.tree(self._contexts[row], len(tree))
        if not tree_costs.paths.pays(survival[best], ahead.pop(best), depth, self._least_rate):
            return ()
        # Another node brings its best child, which it leads to.
        tokens = {node: survival[node] * each[0] for node, each in ahead.items()}
        others = sorted(tokens, key=tokens.__getitem__, reverse=True)
        count = tree_costs.num_beside([tokens[node] for node in others], self._least_rate)
        return (best, *others[:count])

    def _best_fixed(self) -> tuple[float, int]:
        """Tokens a second of the best chain of one length, and that, for texts as in training."""
        shares = self.predictor.get_buffer("num_accepted").double().cpu()
        at_least = shares.flip(0).cumsum(0).flip(0)[1:]  # [K] that so many are accepted, or more
        emitted = 1 + torch.cat((at_least.new_zeros(1), at_least.cumsum(0)))
        seconds = torch.tensor(self._costs.chain(2 * BUCKET).seconds, dtype=torch.float64)
        best = (emitted / seconds).max(0)
        return float(best.values), int(best.indices)
