"""Draft as far as a predictor says before drafting begins.

Source: AdaEAGLE, Zhang et al. 2024, https://arxiv.org/abs/2412.18910: the length that a small
network tells from the target's last feature, rounded and clamped; see `predictors.length.ldlp`.
Differs from the paper: an optional offset; on trees, which the paper leaves for later, the length
limits the depth; a length of 0 decodes plainly.

Shapes: P rounds side by side, F frontier nodes, K longest length.
"""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from adaeagle.identity import Identify
from adaeagle.policy import Context, StopRule
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree
from predictors.base import finite, load_as
from predictors.length.ldlp import LengthPredictor


class LDLP(StopRule):
    """Goes on to the depth that a predictor gave before drafting, and drafts nothing at 0.

    Args:
        predictor: a length predictor: its folder, a bundled one such as `mini/ldlp`, or itself.
        offset: added to the length before it is rounded.
    """

    search_space: ClassVar[SearchSpace] = {"offset": Float(-3.0, 3.0)}

    def __init__(
        self, predictor: str | Path | LengthPredictor = "mini/ldlp", offset: float = 0.0
    ) -> None:
        self.predictor = load_as(LengthPredictor, predictor)  # type: ignore[type-abstract]
        self.offset = offset
        self._predict = self.predictor.scorer()
        self._lengths = torch.zeros(1, 1)  # [P, 1] of this round, rounded

    def check(self, identify: Identify) -> None:
        self.predictor.check(identify())

    def begin(self, context: Context) -> Tensor | None:
        lengths = finite(self._predict(context), "lengths, and features that they come from,")
        self._lengths = (lengths + self.offset).round().clamp(max=self.predictor.k_max).unsqueeze(1)
        return self._lengths[:, 0] > 0

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return (tree.num_levels < self._lengths).expand_as(frontier)
