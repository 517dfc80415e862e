"""Draft on as long as the tokens to be expected are worth their time.

Source: our own, a rule of renewal theory: where a policy earns `rate` tokens a second, a second is
worth `rate` tokens, and one more draft forward is worth its time while the tokens it is expected to
add exceed rate x its seconds (and those it adds to verification). SGLang's throughput-aware
controller (https://github.com/sgl-project/sglang/pull/28045) and CaDDTree (arXiv 2606.01813)
maximise tokens over cost as well, the former from average acceptance, the latter for tree sizes.
Here the expectation is a law of this very round: `predictors.hazard` tells, before drafting and
after drafted tokens, how likely they and the next ones are accepted; the cost is the machine's own,
measured. No threshold on what is worth drafting, and no rounding.

It looks ahead: a token that is not worth its forward alone may lead to some that are. So it says
how far to draft as far as is known now, and asks again when that is reached, or as soon as the
draft is surprisingly unsure of a token: most draft forwards then cost no decision. The first tokens
are drafted unasked, where the best fixed chain has as many: what they are says more than what is
known before them.

On trees the deepest likely path is looked at, at the prices of a chain: a level is drafted on from
while its likeliest path, followed by best children, is worth it.

Shapes: P rounds side by side, F frontier nodes, K longest chain, N drafted nodes.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from adaeagle.cost import CostModel, RoundShapes
from adaeagle.identity import Identify
from adaeagle.policy import Context, StopRule
from adaeagle.search import Real, SearchSpace
from adaeagle.tree import DraftTree
from predictors.hazard import Hazard
from predictors.hazard_steps import HazardSteps, Known, Law
from predictors.predictor import load_as
from predictors.repeats import WINDOW

BUCKET = 64
"""Contexts are priced in steps of so many tokens."""
FIRST = 2
"""Tokens drafted before it is first asked: chosen for `mini`, where asking earlier takes longer and
recovers no more."""
STOP = -1
"""The plan of a round that drafts no further."""
SURPRISE = -1.0
"""Log-probability of a drafted token below which the plan is made anew: chosen for `mini`, where
asking after every token recovers no more, and -2 a quarter less."""


ONE = {answer: torch.tensor([[answer]]) for answer in (False, True)}
"""Answers for one text's chain, made once."""


class CostAware(StopRule):
    """Goes on while the tokens to be expected from going on are worth their seconds.

    Args:
        predictor: a `hazard` predictor: its folder, a bundled one, or itself.
        cost: the machine's cost table: a file, or itself.
        rate: tokens that a second is worth; None: what the best fixed chain would make, by the
            predictor's own record of accepted lengths and the cost table.
        patience: a factor on the worth of time: below 1 it drafts longer than it pays by `rate`.
    """

    search_space: ClassVar[SearchSpace] = {"patience": Real(0.5, 1.5)}

    def __init__(
        self,
        predictor: str | Path | Hazard = "mini/hazard",
        cost: str | Path | CostModel = "mini",
        rate: float | None = None,
        patience: float = 1.0,
    ) -> None:
        if rate is not None and not rate > 0:
            raise ValueError(f"rate must be > 0, got {rate}")
        if not patience > 0:
            raise ValueError(f"patience must be > 0, got {patience}")
        self.predictor = load_as(Hazard, predictor)
        self.cost = cost if isinstance(cost, CostModel) else CostModel.load(cost)
        self.patience = patience
        self._steps = HazardSteps(self.predictor)
        self._priced: dict[int, list[float]] = {}  # by bucket of contexts
        best_rate, best_length = self._best_fixed()
        self.rate = rate or best_rate
        self._first = min(FIRST, best_length)
        self._known: Known
        self._prices: list[list[float]] = []  # [P][K + 1] seconds of rounds of each length
        self._plans: list[int] = []  # [P] how far to draft before asking again

    def check(self, identify: Identify) -> None:
        self.predictor.check(identify())

    def begin(self, context: Context) -> Tensor | None:
        if context.features is None or context.recent is None:
            lacks = "features" if context.features is None else "recent tokens"
            raise ValueError(f"cost_aware needs the target's {lacks}, got none")
        self.predictor.check_feature_size(context.features.shape[1])
        recent = context.recent(WINDOW)
        self._known = self._steps.begin(context.features, context.token_ids, recent)
        self._prices = [self._prices_at(tokens - 1) for tokens in context.num_tokens.tolist()]
        self._plans = [self._first] * len(self._prices)
        return None if self._first else torch.zeros(len(self._prices), dtype=torch.bool)

    def go_on(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        depth = tree.num_levels
        path = None if len(tree) == depth else _best_path(tree, frontier)
        log_probs = _along(tree.log_probs, path)
        asked = [
            row
            for row, (plan, said) in enumerate(zip(self._plans, log_probs, strict=True))
            if plan != STOP and (plan <= depth or said[-1] < SURPRISE)
        ]
        if asked:
            self._ask(asked, log_probs, _along(tree.token_ids, path))
        return _answer([plan > depth for plan in self._plans], frontier)

    def _ask(
        self, asked: list[int], log_probs: list[list[float]], token_ids: list[list[int]]
    ) -> None:
        """Plans some of the rounds anew, now that [P][N] are drafted."""
        known, prices, depth = self._known, self._prices, len(log_probs[0])
        if len(asked) < len(prices):
            known, prices = known.take(asked), [prices[row] for row in asked]
            log_probs = [log_probs[row] for row in asked]
            token_ids = [token_ids[row] for row in asked]
        plans = self._plan(self._steps.after(known, log_probs, token_ids), prices, depth)
        for row, plan in zip(asked, plans, strict=True):
            self._plans[row] = plan

    def _plan(self, laws: list[Law], prices: list[list[float]], depth: int) -> list[int]:
        """[P] how far to draft by what is known at `depth`; `STOP`: no further."""
        worth = self.rate * self.patience
        longest, horizon = self.predictor.k_max, self.predictor.horizon
        plans = []
        for (alive, ahead), seconds in zip(laws, prices, strict=True):
            best, plan, tokens = 0.0, STOP, 0.0
            for length in range(depth + 1, longest + 1):
                # Beyond the horizon it goes on as at its end.
                alive *= ahead[min(length - depth, horizon) - 1]
                tokens += alive
                gain = tokens - worth * (seconds[length] - seconds[depth])
                if gain > best:
                    best, plan = gain, length
            plans.append(plan)
        return plans

    def _prices_at(self, context: int) -> list[float]:
        """Seconds of rounds that draft 0 to K tokens."""
        bucket = context // BUCKET
        if bucket not in self._priced:
            self._priced[bucket] = self._price(bucket * BUCKET + BUCKET // 2)
        return self._priced[bucket]

    def _price(self, context: int) -> list[float]:
        lengths = torch.arange(self.predictor.k_max + 1)
        widths = (torch.arange(self.predictor.k_max) < lengths.unsqueeze(1)).long()
        shapes = RoundShapes(
            contexts=torch.full_like(lengths, context),
            widths=widths,
            nodes=lengths,
            is_tree=torch.zeros_like(lengths, dtype=torch.bool),
        )
        seconds: list[float] = self.cost.round_seconds(shapes).tolist()
        return seconds

    def _best_fixed(self) -> tuple[float, int]:
        """Tokens a second of the best chain of one length, and that, for texts as in training."""
        shares = self.predictor.get_buffer("num_accepted").double().numpy()
        at_least = shares[::-1].cumsum()[::-1][1:]  # [K] that so many are accepted, or more
        emitted = 1 + np.concatenate(([0.0], at_least.cumsum()))
        rates = emitted / self._prices_at(2 * BUCKET)
        return float(rates.max()), int(rates.argmax())


def _along(values: Tensor, path: Tensor | None) -> list[list[Any]]:
    """Of each node [P][nodes], or of those on a path [P, N] alone."""
    found: list[list[Any]] = (values if path is None else values.gather(1, path)).tolist()
    return found


def _answer(goes_on: list[bool], frontier: Tensor) -> Tensor:
    """[P, F] the same of all nodes of a round."""
    found = ONE[goes_on[0]] if len(goes_on) == 1 else torch.tensor(goes_on).unsqueeze(1)
    if not frontier.is_cpu:
        found = found.to(frontier.device)
    return found if frontier.shape[1] == 1 else found.expand(frontier.shape)


def _best_path(tree: DraftTree, frontier: Tensor) -> Tensor:
    """The nodes from the first level down to the likeliest frontier node, [P, levels]."""
    scores = tree.path_log_probs.gather(1, frontier)
    # Of equals the first of the tree, in whatever order they are given.
    is_best = scores == scores.amax(1, keepdim=True)
    path = [frontier.masked_fill(~is_best, len(tree)).amin(1, keepdim=True)]
    for _ in range(tree.num_levels - 1):
        path.append(tree.parents.gather(1, path[-1]).clamp(min=0))
    return torch.cat(path[::-1], dim=1)
