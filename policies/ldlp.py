"""Draft as far as a predictor says before drafting begins.

Source: AdaEAGLE, Zhang et al. 2024, https://arxiv.org/abs/2412.18910: the length that a small
network tells from the target's last feature, rounded and clamped; see `predictors.length.ldlp`.
Differs from the paper: an optional offset; on trees, which the paper leaves for later, the length
limits the depth; a length of 0 decodes plainly.

Shapes: P rounds side by side, F frontier nodes, K longest length.
"""

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from adaeagle.identity import Identify
from adaeagle.policy import Context, StopRule
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree
from policies.support.one_chain import ANSWERS
from predictors.base import load_as
from predictors.length.ldlp import LengthPredictor

NOWHERE = torch.tensor([False])
"""One round that is not worth drafting in."""


class LDLP(StopRule):
    """Goes on to the depth that a predictor told before drafting, and drafts nothing at 0.

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
        self._ask = self.predictor.asked()
        self._places = np.arange(self.predictor.k_max + 1)
        # [P, K + 1] of this round, whether to go on after so many tokens; of one text its length.
        self._is_open = torch.zeros(1, len(self._places), dtype=torch.bool)
        self._length: int | None = None

    def check(self, identify: Identify) -> None:
        self.predictor.check(identify())

    def begin(self, context: Context) -> Tensor | None:
        lengths = self._ask(context)
        is_one = len(lengths) == 1
        if not math.isfinite(lengths.item() if is_one else lengths.sum()):
            raise ValueError("lengths, and features that they come from, must be finite, got NaN")
        self._length = None
        if is_one and context.token_ids.is_cpu:
            self._length = min(round(lengths.item() + self.offset), self.predictor.k_max)
            return None if self._length > 0 else NOWHERE
        lengths = np.round(lengths + self.offset)
        # All of a round's answers at once: it is asked for them between draft forwards.
        self._is_open = torch.from_numpy(lengths[:, None] > self._places)
        self._is_open[:, -1] = False
        is_worth = self._is_open[:, 0]
        self._is_open = self._is_open.to(context.token_ids.device)
        return is_worth

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        if self._length is not None:
            answer = ANSWERS[tree.num_levels < self._length]
            return answer if frontier.shape[1] == 1 else answer.expand_as(frontier)
        place = min(tree.num_levels, len(self._places) - 1)
        return self._is_open[:, place : place + 1].expand_as(frontier)
