"""Stop where a network on the draft's confidences says so.

Source: DISCO, Mamou et al. 2024, https://arxiv.org/abs/2405.04304: a small network on the ten best
confidences, entropy and place of each drafted token says whether to go on.
Differs from the paper: any predictor of acceptance will do (`predictors.acceptance.disco` is the
paper's); on trees each node is judged by itself.

Shapes: P rounds side by side, F frontier nodes.
"""

import math
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from adaeagle.identity import Identify
from adaeagle.policy import Context, StopRule
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree
from predictors.acceptance.base import AcceptancePredictor
from predictors.base import load_as


class Disco(StopRule):
    """Goes on from a node while it is accepted with a probability of at least `threshold`.

    Args:
        predictor: of acceptance: its folder, a bundled one, or itself.
        threshold: a probability in (0, 1).
    """

    search_space: ClassVar[SearchSpace] = {"threshold": Float(0.05, 0.95)}

    def __init__(
        self, predictor: str | Path | AcceptancePredictor = "mini/disco", threshold: float = 0.5
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be in (0, 1), got {threshold}")
        self.predictor = load_as(AcceptancePredictor, predictor)  # type: ignore[type-abstract]
        self.needs = self.predictor.needs
        self.threshold = threshold
        self._least = math.log(threshold) - math.log1p(-threshold)
        self._scorer = self.predictor.scorer()

    def check(self, identify: Identify) -> None:
        self.predictor.check(identify())

    def begin(self, context: Context) -> None:
        self._scorer.begin(context)

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return self._scorer.log_odds(tree, frontier) >= self._least
