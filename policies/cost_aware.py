"""Draft on as long as the tokens to be expected are worth their time.

Source: our own, a rule of renewal theory: where a policy earns `rate` tokens a second, a second is
worth `rate` tokens, and one more draft forward is worth its time while the tokens it is expected to
add exceed rate x its seconds (and those it adds to verification). SGLang's throughput-aware
controller (https://github.com/sgl-project/sglang/pull/28045) and CaDDTree (arXiv 2606.01813)
maximise tokens over cost as well, the former from average acceptance, the latter for tree sizes.
Here the expectation is a distribution of this very round: `predictors.hazard` tells, before and
after drafting, how likely drafted tokens and the next ones are accepted; the cost is the machine's
own, measured. No threshold on what is worth drafting, and no rounding.

It looks ahead: a token that is not worth its forward alone may lead to some that are. So it says
how far to draft as far as is known now, and asks again when that is reached, or as soon as the
draft is surprisingly unsure of a token: most draft forwards then cost no decision. The first tokens
are drafted unasked, where the best fixed chain has as many: what they are says more than what is
known before them.

On trees it says three things: how deep, by the likeliest path as on a chain; which other nodes of a
level are worth a place in the forward that is made for that one; and, at the end, how many of the
likeliest nodes are worth verifying. All are weighed by the distribution's probabilities of whole
paths, not by the draft's own (`predictors.hazard.trees`), at the prices of trees. Between two
questions it follows the likeliest child alone.

Shapes: P rounds side by side, A of them asked about, F frontier nodes, L nodes of the latest level,
K longest chain, N drafted nodes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.identity import Identify
from adaeagle.policy import Context, Needs, StopRule
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree, likeliest
from policies.support.round_costs import BUCKET, PathCosts, RoundCosts
from predictors.base import load_as
from predictors.hazard.chains import Distribution, HazardChains
from predictors.hazard.network import HazardPredictor
from predictors.hazard.steps import HazardSteps, Known, chance
from predictors.hazard.suffix_match import WINDOW
from predictors.hazard.trees import HazardNodes

FIRST = 2
"""Tokens drafted before it is first asked: chosen for `mini`, where asking earlier takes longer and
recovers no more."""
STOP = -1
"""The plan of a round that drafts no further."""
SURPRISE = -1.0
"""Log-probability of a drafted token below which the plan is made anew: chosen for `mini`, where
asking after every token recovers no more, and -2 a quarter less."""
SURE = 4.0
"""Log-odds that the prediction gives a token, 98 %, from which it surprises only below `SHOCK`:
drafts are often unsure of what follows in a text that repeats itself."""
SHOCK = -2.5


class CostAware(StopRule):
    """Goes on while the tokens to be expected from going on are worth their seconds.

    Args:
        predictor: a `hazard` predictor: its folder, a bundled one, or itself.
        cost: the machine's cost table: a file, or itself.
        rate: tokens that a second is worth; None: what the best fixed chain would make, by the
            predictor's own record of accepted lengths and the cost table.
        patience: a factor on the worth of time: below 1 it drafts longer than it pays by `rate`.
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
        if not patience > 0:
            raise ValueError(f"patience must be > 0, got {patience}")
        self.predictor = load_as(HazardPredictor, predictor)
        self.cost = cost if isinstance(cost, CostModel) else CostModel.load(cost)
        self.patience = patience
        self._steps = HazardSteps(self.predictor)
        self._of = RoundCosts(self.cost, self.predictor.k_max)
        best_rate, best_length = self._best_fixed()
        self.rate = rate or best_rate
        self._first = min(FIRST, best_length)
        self._before: tuple[Tensor, Tensor, list[list[int]]]  # what is known, not yet encoded
        self._chains: HazardChains | None = None  # of this round, once it is asked
        self._nodes: HazardNodes | None = None  # of this round, where it drafts a tree
        self._contexts: list[int] = []  # [P] tokens before the pending one
        self._plans: list[int] = []  # [P] how far to draft before asking again
        self._sure: list[int] = []  # [P] how far it is sure of each token
        self._level = 0  # of a tree, the last that was asked about
        self._open: list[Sequence[int]] = []  # [P] which of its nodes go on

    def check(self, identify: Identify) -> None:
        self.predictor.check(identify())

    def begin(self, context: Context) -> Tensor | None:
        if context.features is None or context.recent is None:
            lacks = "features" if context.features is None else "recent tokens"
            raise ValueError(f"cost_aware needs the target's {lacks}, got none")
        self.predictor.check_feature_size(context.features.shape[1])
        self._before = context.features, context.token_ids, context.recent(WINDOW)
        self._chains, self._nodes, self._level = None, None, 0
        self._contexts = [tokens - 1 for tokens in context.num_tokens.tolist()]
        self._plans = [self._first] * len(self._contexts)
        self._sure = [0] * len(self._contexts)
        return None if self._first else torch.zeros(len(self._contexts), dtype=torch.bool)

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        if len(tree) > tree.num_levels:
            return self._go_on_tree(tree, frontier)
        depth = tree.num_levels
        asked = self._asked([said for [said] in tree.log_probs[:, tree.last_level].tolist()], depth)
        if asked:
            self._ask(asked, tree.log_probs.tolist(), tree.token_ids.tolist())
        return _answer([plan > depth for plan in self._plans], frontier)

    def prune(self, tree: DraftTree, chosen: Tensor) -> Tensor:
        if len(tree) == tree.num_levels:  # a chain, whose tokens were priced with verification
            return chosen
        rows = range(tree.num_rounds)
        nodes = self._judged()
        nodes.judge(tree, rows)
        survival = torch.tensor([nodes.survival(row) for row in rows])
        survival = survival.to(chosen.device).masked_fill_(~chosen, -torch.inf)
        costs = [self._of.tree(at, len(tree)) for at in self._contexts]
        counts = [
            each.num_verified(likely, self._worth)
            for each, likely in zip(costs, survival.tolist(), strict=True)
        ]
        count = torch.tensor(counts, device=chosen.device) if len(counts) > 1 else counts[0]
        return likeliest(survival, count)

    @property
    def _worth(self) -> float:
        """Tokens that a second must bring."""
        return self.rate * self.patience

    def _asked(self, said: list[float], depth: int) -> list[int]:
        """Rounds whose plan has ended, or is in doubt after a token of this log-probability."""
        told = zip(self._plans, self._sure, said, strict=True)
        return [
            row
            for row, (plan, sure, log_prob) in enumerate(told)
            if plan != STOP and (plan <= depth or log_prob < (SURPRISE if depth > sure else SHOCK))
        ]

    def _ask(
        self, asked: list[int], log_probs: list[list[float]], token_ids: list[list[int]]
    ) -> None:
        """Plans some of the rounds anew, now that [P][N] are drafted."""
        if self._chains is None:
            self._chains = HazardChains(self._steps, self._known())
        distributions = self._chains.after(asked, log_probs, token_ids)
        for row, distribution in zip(asked, distributions, strict=True):
            self._replan(
                row, distribution, self._of.chain(self._contexts[row]), len(log_probs[row])
            )

    def _replan(self, row: int, distribution: Distribution, costs: PathCosts, depth: int) -> None:
        """How far to draft by what is known at `depth`."""
        plan = costs.plan(
            distribution.survival, map(chance, distribution.against), depth, self._worth
        )
        self._plans[row] = STOP if plan is None else plan
        self._sure[row] = depth
        for odds in distribution.against:
            if odds > -SURE:
                break
            self._sure[row] += 1

    def _judged(self) -> HazardNodes:
        """What is known of this round's nodes."""
        if self._nodes is None:
            self._nodes = HazardNodes(self._steps, self._known())
        return self._nodes

    def _known(self) -> Known:
        """Encoded when it is first needed, together with the first question."""
        return self._steps.begin(*self._before)

    def _go_on_tree(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        if self._level != tree.num_levels:  # else it is asked once more, and answers the same
            self._level, self._open = tree.num_levels, self._opened(tree)
        goes_on = [
            [node in some for node in nodes]
            for nodes, some in zip(frontier.tolist(), self._open, strict=True)
        ]
        return torch.tensor(goes_on, device=frontier.device)

    def _opened(self, tree: DraftTree) -> list[Sequence[int]]:
        """The likeliest node of the latest level, and others where the plan was made anew."""
        num_parents, num_ranks = tree.levels[-1]
        first, depth = len(tree) - num_parents * num_ranks, tree.num_levels
        opened: list[Sequence[int]] = []
        said: list[float] = []
        columns = (
            column[:, tree.last_level].tolist() for column in (tree.path_log_probs, tree.log_probs)
        )
        for row, (paths, log_probs) in enumerate(zip(*columns, strict=True)):
            place = paths.index(max(paths))
            if paths[place] == -math.inf:  # nothing was drafted here
                self._plans[row] = STOP
            opened.append((first + place,) if self._plans[row] > depth else ())
            said.append(log_probs[place])
        asked = self._asked(said, depth)
        if asked:
            self._judged().judge(tree, asked)
            for row in asked:
                opened[row] = self._replanned(row, tree)
        return opened

    def _replanned(self, row: int, tree: DraftTree) -> list[int]:
        """Plans a round anew, and says which nodes of its latest level go on, the likeliest first.

        Args:
            row: the round.
            tree: as it was judged.
        """
        survival, families = self._judged().survival(row), self._judged().latest(row)
        against = {node: each.against for each in families for node in range(each.best, each.end)}
        best = max(against, key=survival.__getitem__)
        costs = self._of.tree(self._contexts[row], len(tree))
        self._replan(
            row, Distribution(survival[best], against.pop(best)), costs.paths, tree.num_levels
        )
        if self._plans[row] == STOP:
            return []
        # Of another node its best child, which it leads to.
        tokens = {node: survival[node] * chance(odds[0]) for node, odds in against.items()}
        others = sorted(tokens, key=tokens.__getitem__, reverse=True)
        count = costs.num_beside([tokens[node] for node in others], self._worth)
        return [best, *others[:count]]

    def _best_fixed(self) -> tuple[float, int]:
        """Tokens a second of the best chain of one length, and that, for texts as in training."""
        shares = self.predictor.get_buffer("num_accepted").double().numpy()
        at_least = shares[::-1].cumsum()[::-1][1:]  # [K] that so many are accepted, or more
        emitted = 1 + np.concatenate(([0.0], at_least.cumsum()))
        rates = emitted / self._of.chain(2 * BUCKET).seconds
        return float(rates.max()), int(rates.argmax())


def _answer(goes_on: list[bool], frontier: Tensor) -> Tensor:
    """[P] as bool [P, F]."""
    return torch.tensor(goes_on, device=frontier.device).unsqueeze(1).expand_as(frontier)
