"""Draft on as long as the tokens to be expected are worth their time.

Source: our own, a rule of renewal theory: where a policy earns `rate` tokens a second, a second is
worth `rate` tokens, and one more draft forward is worth its time while the tokens it is expected to
add exceed rate x its seconds (and those it adds to verification). SGLang's throughput-aware
controller (https://github.com/sgl-project/sglang/pull/28045) and CaDDTree (arXiv 2606.01813)
maximise tokens over cost as well, the former from average acceptance, the latter for tree sizes.
Here the expectation is a law of this very round: `predictors.hazard` tells before drafting, and
again after every drafted token, how likely the tokens so far and the next ones are accepted; the
cost is the machine's own, measured. No threshold and no rounding.

It looks ahead: a token that is not worth its forward alone may lead to some that are. On trees the
deepest likely path is looked at: a level is drafted on from while its likeliest path, followed by
best children, is worth a forward of the whole level.

Shapes: P rounds side by side, F frontier nodes, K longest chain, M tokens looked ahead.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adaeagle.cost import CostModel, RoundShapes
from adaeagle.identity import Identify
from adaeagle.policy import Context, StopRule
from adaeagle.search import Real, SearchSpace
from adaeagle.tree import DraftTree
from predictors.hazard import Hazard
from predictors.hazard_steps import HazardRound, HazardSteps
from predictors.predictor import load_as

BUCKET = 64
"""Contexts are priced in steps of so many tokens."""

Seconds = npt.NDArray[np.float64]


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
        patience: float = 0.9,
    ) -> None:
        if rate is not None and not rate > 0:
            raise ValueError(f"rate must be > 0, got {rate}")
        if not patience > 0:
            raise ValueError(f"patience must be > 0, got {patience}")
        self.predictor = load_as(Hazard, predictor)
        self.cost = cost if isinstance(cost, CostModel) else CostModel.load(cost)
        self.patience = patience
        self._steps = HazardSteps(self.predictor)
        self._known: dict[int, Seconds] = {}  # by bucket of contexts
        self.rate = rate or self._best_fixed_rate()
        self._laws: list[HazardRound] = []  # of this round, before drafting and as a chain grows
        # [P, K + 1] what rounds of each length must emit to be worth their time.
        self._prices = np.zeros((1, self.predictor.k_max + 1))
        self._places = np.minimum(np.arange(self.predictor.k_max), self.predictor.horizon - 1)

    def check(self, identify: Identify) -> None:
        self.predictor.check(identify())

    def begin(self, context: Context) -> Tensor:
        if context.features is None:
            raise ValueError("cost_aware needs the target's features, got none")
        self.predictor.check_feature_size(context.features.shape[1])
        self._laws = [self._steps.begin(context.features, context.token_ids)]
        seconds = self._prices_at((context.num_tokens - 1).tolist())
        self._prices = seconds * (self.rate * self.patience)
        return torch.from_numpy(self._is_worth(self._laws[0], 0))

    def go_on(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        is_chain = len(tree) == tree.num_levels
        law = self._along_chain(tree) if is_chain else self._along_best_path(tree, frontier)
        is_worth = torch.from_numpy(self._is_worth(law, tree.num_levels))
        return is_worth.to(frontier.device).unsqueeze(1).expand_as(frontier)

    def _along_chain(self, tree: DraftTree) -> HazardRound:
        """What is known after a chain's last token; what was known before it is kept."""
        del self._laws[tree.num_levels :]
        for place in range(len(self._laws) - 1, tree.num_levels):
            log_probs, token_ids = tree.log_probs[:, place], tree.token_ids[:, place]
            law = self._laws[place].after(log_probs.cpu().numpy(), token_ids.cpu().numpy())
            self._laws.append(law)
        return self._laws[-1]

    def _along_best_path(self, tree: DraftTree, frontier: Tensor) -> HazardRound:
        """What is known along the path of the likeliest frontier node."""
        scores = tree.path_log_probs.gather(1, frontier)
        likeliest = scores.max(1, keepdim=True).values
        # Of equals the first of the tree, in whatever order they are given.
        row = frontier.masked_fill(scores < likeliest, len(tree)).min(1, keepdim=True).values
        rows = [row]
        for _ in range(tree.num_levels - 1):
            rows.append(tree.parents.gather(1, rows[-1]).clamp(min=0))
        law = self._laws[0]
        for row in reversed(rows):
            log_probs, token_ids = tree.log_probs.gather(1, row), tree.token_ids.gather(1, row)
            law = law.after(log_probs[:, 0].cpu().numpy(), token_ids[:, 0].cpu().numpy())
        return law

    def _is_worth(self, now: HazardRound, depth: int) -> npt.NDArray[np.bool_]:
        """[P] whether some number of further draft forwards is worth its time."""
        num_left = self.predictor.k_max - depth
        if num_left <= 0:
            return np.zeros(len(now.survival), dtype=np.bool_)
        # Beyond the horizon it goes on as at its end.
        ahead = now.ahead[:, self._places[:num_left]]
        ahead[:, 0] *= now.survival
        tokens = np.add.accumulate(np.multiply.accumulate(ahead, axis=1), axis=1)
        worth = self._prices[:, depth + 1 :] - self._prices[:, depth : depth + 1]
        is_worth: npt.NDArray[np.bool_] = (tokens > worth).max(axis=1)
        return is_worth

    def _prices_at(self, contexts: list[int]) -> Seconds:
        """Seconds of rounds that draft 0 to K tokens, [P, K + 1]."""
        rows = []
        for context in contexts:
            bucket = context // BUCKET
            if bucket not in self._known:
                self._known[bucket] = self._price(bucket * BUCKET + BUCKET // 2)
            rows.append(self._known[bucket])
        return np.stack(rows)

    def _price(self, context: int) -> Seconds:
        lengths = torch.arange(self.predictor.k_max + 1)
        widths = (torch.arange(self.predictor.k_max) < lengths.unsqueeze(1)).long()
        shapes = RoundShapes(
            contexts=torch.full_like(lengths, context),
            widths=widths,
            nodes=lengths,
            is_tree=torch.zeros_like(lengths, dtype=torch.bool),
        )
        seconds: Seconds = self.cost.round_seconds(shapes).numpy()
        return seconds

    def _best_fixed_rate(self) -> float:
        """Tokens a second of the best chain of one length, where texts are as in training."""
        shares = self.predictor.get_buffer("num_accepted").double().numpy()
        at_least = shares[::-1].cumsum()[::-1][1:]  # [K] that so many are accepted, or more
        emitted = 1 + np.concatenate(([0.0], at_least.cumsum()))
        return float((emitted / self._prices_at([2 * BUCKET])[0]).max())
