"""Stop where the path so far has become unlikely as a whole.

Source: the threshold baseline of AdaEAGLE (Zhang et al. 2024, https://arxiv.org/abs/2412.18910),
called DDD there: a chain goes on while the product of its draft probabilities is above a threshold,
exp(-0.6) in its best run.
Differs from the paper: on trees, which it leaves aside, each path is judged by itself. The rule of
the same name that judges a whole beam is `beam_total`.
"""

import math
from typing import ClassVar

import numpy as np
from torch import Tensor

from adaeagle.policy import Needs, StopRule
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree


class Cumulative(StopRule):
    """Goes on from a node while the probability of its whole path is above a threshold.

    Args:
        log_threshold: natural logarithm of that threshold, at most 0. At 0 no node is gone on
            from; at minus infinity every one is.
    """

    needs = Needs(log_probs=True)
    search_space: ClassVar[SearchSpace] = {"log_threshold": Float(-6.0, -0.05)}

    def __init__(self, log_threshold: float = -0.6) -> None:
        if math.isnan(log_threshold) or log_threshold > 0:
            raise ValueError(f"log_threshold must be <= 0, got {log_threshold}")
        self.log_threshold = log_threshold
        self._least = float(np.float32(log_threshold))  # as log-probabilities are rounded

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return tree.path_log_probs.gather(1, frontier) > self._least
