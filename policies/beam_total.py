"""End drafting where the whole beam has become unlikely.

Source: dynamic depth decoding (DDD), Brown et al. 2024, https://arxiv.org/abs/2409.00142: with
EAGLE-2's beam, go on while the logarithm of the beam's total probability is above a threshold,
looking only after a few chosen draft forwards, since each look makes the host wait. The paper
drafts at most 11 levels with a beam of 10. Depths 5, 7, 9 and -0.3 are its settings as reported by
LTD (https://arxiv.org/abs/2603.01639).
Differs from the paper: depths count draft forwards, the first included; the core makes the host
wait at every level, whatever the depths; on trees of another shape the beam is the `width`
likeliest nodes of the level, and on a chain its one node.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from adaeagle.policy import Needs, StopRule
from adaeagle.ranges import at_least
from adaeagle.search_space import Categorical, Float, SearchSpace
from adaeagle.tree import DraftTree


class BeamTotal(StopRule):
    """Goes on from a level while its beam's total path probability is above a threshold.

    Args:
        log_threshold: natural logarithm of that threshold, at most 0.
        depths: after which draft forwards to look; None: after every one.
        width: nodes of the beam, as many as the shape expands.
    """

    needs = Needs(log_probs=True)
    search_space: ClassVar[SearchSpace] = {
        "log_threshold": Float(-3.0, -0.01),
        "depths": Categorical((None, (2, 4, 6, 8), (3, 6, 9), (5, 7, 9))),
    }

    def __init__(
        self,
        log_threshold: float = -0.3,
        depths: Sequence[int] | None = (5, 7, 9),
        width: int = 10,
    ) -> None:
        if math.isnan(log_threshold) or log_threshold > 0:
            raise ValueError(f"log_threshold must be <= 0, got {log_threshold}")
        if depths is not None and (not depths or min(depths) < 1):
            raise ValueError(f"depths must be None or draft forwards >= 1, got {list(depths)}")
        at_least(1, width=width)
        self.log_threshold = log_threshold
        self.depths = None if depths is None else frozenset(depths)
        self.width = width

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        if self.depths is not None and tree.num_levels not in self.depths:
            return torch.ones_like(frontier, dtype=torch.bool)
        scores = tree.path_log_probs.gather(1, frontier)
        beam = scores.topk(min(self.width, scores.shape[1]), dim=1).values
        total = beam.logsumexp(1, keepdim=True)  # [P, 1]
        return (total > self.log_threshold).expand_as(frontier)
