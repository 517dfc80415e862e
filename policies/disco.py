"""Stop where a network on the draft's confidences says so.

Source: DISCO, Mamou et al. 2024, https://arxiv.org/abs/2405.04304: a small network on the ten best
confidences, entropy and place of each drafted token says whether to go on.
Differs from the paper: any predictor of acceptance will do, see `predictors.disco` for the paper's;
on trees each node is judged by itself.

Shapes: P rounds side by side, F frontier nodes.
"""

import math
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from adaeagle.identity import Identify
from adaeagle.policy import Context, StopRule
from adaeagle.search import Real, SearchSpace
from adaeagle.tree import DraftTree
from predictors.acceptance import AcceptancePredictor
from predictors.context_network import live_batch
from predictors.nodes import Nodes
from predictors.predictor import load_as


class Disco(StopRule):
    """Goes on from a node while it is accepted with a probability of at least `threshold`.

    Args:
        predictor: of acceptance: its folder, a bundled one, or itself.
        threshold: a probability in (0, 1).
    """

    needs_entropy = True
    search_space: ClassVar[SearchSpace] = {"threshold": Real(0.05, 0.95)}

    def __init__(
        self, predictor: str | Path | AcceptancePredictor = "mini/disco", threshold: float = 0.5
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be in (0, 1), got {threshold}")
        self.predictor = load_as(AcceptancePredictor, predictor)  # type: ignore[type-abstract]
        self.num_confidences = self.predictor.num_confidences
        self.threshold = threshold
        self._least = math.log(threshold) - math.log1p(-threshold)
        self._encoded: Tensor | None = None

    def check(self, identify: Identify) -> None:
        self.predictor.check(identify())

    @torch.no_grad()
    def begin(self, context: Context) -> None:
        self._encoded = self.predictor.encode(live_batch(self.predictor, context))

    @torch.no_grad()
    def go_on(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        odds = self.predictor.log_odds(Nodes.of_tree(tree, frontier), self._encoded)
        return odds >= self._least
