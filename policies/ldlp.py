"""Draft as far as a predictor says before drafting begins.

Source: AdaEAGLE, Zhang et al. 2024, https://arxiv.org/abs/2412.18910: the length that a small
network tells from the target's last feature, rounded and clamped; see `predictors.ldlp`.
Differs from the paper: an optional offset; on trees, which the paper leaves for later, the length
limits the depth; a length of 0 decodes plainly.

Shapes: P rounds side by side, F frontier nodes.
"""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from adaeagle.identity import Identify
from adaeagle.policy import Context, StopRule
from adaeagle.search import Real, SearchSpace
from adaeagle.tree import DraftTree
from predictors.context_network import live_batch
from predictors.ldlp import LengthPredictor
from predictors.predictor import finite, load_as


class LDLP(StopRule):
    """Goes on to the depth that a predictor told before drafting, and drafts nothing at 0.

    Args:
        predictor: a length predictor: its folder, a bundled one such as `mini/ldlp`, or itself.
        offset: added to the length before it is rounded.
    """

    search_space: ClassVar[SearchSpace] = {"offset": Real(-3.0, 3.0)}

    def __init__(
        self, predictor: str | Path | LengthPredictor = "mini/ldlp", offset: float = 0.0
    ) -> None:
        self.predictor = load_as(LengthPredictor, predictor)  # type: ignore[type-abstract]
        self.offset = offset
        self._lengths = torch.zeros(1, dtype=torch.int64)  # [P] of this round

    def check(self, identify: Identify) -> None:
        self.predictor.check(identify())

    @torch.no_grad()
    def begin(self, context: Context) -> Tensor:
        lengths = self.predictor.lengths(live_batch(self.predictor, context))
        lengths = finite(lengths, "lengths, and features that they come from,")
        self._lengths = (lengths + self.offset).round().long().clamp(0, self.predictor.k_max)
        return self._lengths > 0

    def go_on(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return (self._lengths > tree.num_levels).unsqueeze(1).expand_as(frontier)
