"""Stop where the draft model is unsure, with a threshold refitted to what was accepted.

Source: dynamic speculation lookahead in `transformers` (`generation/candidate_generator.py`,
https://github.com/huggingface/transformers/pull/33258; Mamou et al. 2024,
https://arxiv.org/abs/2405.04304): stop where the probability of the drafted token is below 0.4;
once more than 5 tokens were tested, and of both outcomes, the threshold is the point of their ROC
curve with the least fpr + 3 fnr. There a round drafts at most 20 tokens, which is
`chain(stop=hf_dynamic, length=20)`.
Differs from the code: its documentation keeps the threshold across texts, its code since pull
request 42702 begins anew, and so do we unless `across_texts` says otherwise. An accepted token that
ends the text counts as accepted. On trees each unsure node is closed by itself, and every tested
node is a sample.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from adaeagle.policy import Needs, Outcome, StopRule
from adaeagle.ranges import in_unit
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree
from policies.support.row_state import for_rows

MIN_SAMPLES = 6
MISS_COST = 3.0
"""A good token not gone on from costs as much as three bad ones that were."""


class HFDynamic(StopRule):
    """Goes on from a node while the draft's probability of it is at least a learned threshold.

    Args:
        threshold: the first one of a text, in [0, 1].
        across_texts: begin a text where the last one ended, samples included.
    """

    learns = True

    needs = Needs(log_probs=True)
    search_space: ClassVar[SearchSpace] = {"threshold": Float(0.05, 0.95)}  # where it begins

    def __init__(self, threshold: float = 0.4, across_texts: bool = False) -> None:
        in_unit(threshold=threshold)
        self.first_threshold = threshold
        self.across_texts = across_texts
        self._begin()

    def _begin(self) -> None:
        self.threshold = torch.tensor([self.first_threshold])  # [1], or [P] once a round was seen
        # Of each text: probabilities of the tested tokens, and whether they were accepted.
        self._probs: list[list[float]] = [[]]
        self._accepted: list[list[bool]] = [[]]

    def reset(self) -> None:
        if not self.across_texts:
            self._begin()

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        threshold = for_rows(self.threshold, tree.num_rounds).to(frontier.device)
        return tree.log_probs.gather(1, frontier).exp() >= threshold.unsqueeze(1)

    def observe(self, outcome: Outcome) -> None:
        num_rounds = outcome.tree.num_rounds
        thresholds = for_rows(self.threshold, num_rounds).tolist()
        if len(self._probs) < num_rounds:
            self._probs = [list(self._probs[0]) for _ in range(num_rounds)]
            self._accepted = [list(self._accepted[0]) for _ in range(num_rounds)]
        columns = outcome.tree.log_probs.exp(), outcome.accepted, outcome.tested
        rows = zip(*(column.tolist() for column in columns), strict=True)
        # The curve is fitted a text at a time: each has its own samples.
        for row, (probs, accepted, tested) in enumerate(rows):
            if not any(tested):
                continue
            self._probs[row] += compress(probs, tested)
            self._accepted[row] += compress(accepted, tested)
            if len(self._probs[row]) >= MIN_SAMPLES and len(set(self._accepted[row])) == 2:
                thresholds[row] = best_threshold(self._probs[row], self._accepted[row])
        self.threshold = torch.tensor(thresholds)

    def state_dict(self) -> dict[str, Any]:
        if not self.across_texts:
            return {}
        return {"threshold": self.threshold, "probs": self._probs, "accepted": self._accepted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.threshold = state["threshold"]
            self._probs = [list(row) for row in state["probs"]]
            self._accepted = [list(row) for row in state["accepted"]]


def best_threshold(probs: Sequence[float], accepted: Sequence[bool]) -> float:
    """The threshold on `probs` that tells accepted tokens from others at the least cost.

    The points are those of scikit-learn's `roc_curve`, which takes a millisecond to check its
    input: as long as a draft forward of a small model, in every round.
    """
    order = np.argsort(-np.asarray(probs), kind="stable")
    scores, good = np.asarray(probs)[order], np.asarray(accepted)[order].cumsum()
    bad = np.arange(1, len(scores) + 1) - good
    num_good, num_bad = good[-1], bad[-1]
    # Costs times both numbers of tokens: whole numbers, so that equal ones are equal.
    costs = bad * num_good + MISS_COST * (num_good - good) * num_bad
    costs[:-1][scores[1:] == scores[:-1]] = np.inf  # of equal scores the last is the threshold
    is_none_better = costs.min() >= MISS_COST * num_good * num_bad
    return np.inf if is_none_better else float(scores[costs.argmin()])
