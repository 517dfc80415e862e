"""Stop where the draft model is unsure of its own token.

Source: dynamic speculation lookahead as in `transformers`
(https://huggingface.co/blog/dynamic_speculation_lookahead): stop when the assistant's probability
falls below `assistant_confidence_threshold`, 0.4 by default. Kangaroo (Liu et al. 2024,
https://arxiv.org/abs/2404.18911) uses 0.6 in the same way.
Differs from the source: the threshold is constant; on trees each unsure node is closed by itself.
"""

import math
from typing import ClassVar

import numpy as np
from torch import Tensor

from adaeagle.policy import Needs, StopRule
from adaeagle.ranges import in_unit
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree


class Confidence(StopRule):
    """Goes on from a node while the draft's probability of it is at least `threshold`.

    Args:
        threshold: a probability in [0, 1]; the node that falls below it is kept.
    """

    needs = Needs(log_probs=True)
    search_space: ClassVar[SearchSpace] = {"threshold": Float(0.01, 0.99)}

    def __init__(self, threshold: float = 0.4) -> None:
        in_unit(threshold=threshold)
        self.threshold = threshold
        log_threshold = math.log(threshold) if threshold > 0 else -math.inf
        self._log_threshold = float(np.float32(log_threshold))  # as log-probabilities are rounded

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return tree.log_probs.gather(1, frontier) >= self._log_threshold
