"""How a rule asks a trained predictor of acceptance: once a round, and for each new node.

Shapes: P rounds side by side, M new nodes of each.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaeagle.policy import Context
from adaeagle.tree import DraftTree
from predictors.data.nodes import Nodes
from predictors.layers.context import live_batch
from predictors.layers.in_numpy import Floats, array

if TYPE_CHECKING:
    from predictors.acceptance.base import AcceptancePredictor


class Odds(ABC):
    """The odds of acceptance of one round's nodes."""

    @abstractmethod
    def begin(self, context: Context) -> None:
        """Takes in what is known before rounds."""

    @abstractmethod
    def of(self, tree: DraftTree, start: int) -> Floats:
        """log(p / (1 - p)) of nodes from row `start` on, [P, M], given that their parents are."""

    def of_newest(self, tree: DraftTree) -> float:
        """The same of the last node of one text's chain, which is on the host."""
        return float(self.of(tree, len(tree) - 1)[0, 0])


class TorchOdds(Odds):
    """As the predictor itself tells them.

    Args:
        predictor: trained.
    """

    def __init__(self, predictor: "AcceptancePredictor") -> None:
        self._predictor = predictor
        self._encoded: Tensor | None = None

    @torch.no_grad()
    def begin(self, context: Context) -> None:
        self._encoded = self._predictor.encode(live_batch(self._predictor, context))

    @torch.no_grad()
    def of(self, tree: DraftTree, start: int) -> Floats:
        rows = torch.arange(start, len(tree), device=tree.parents.device)
        nodes = Nodes.of_tree(tree, rows.expand(tree.num_rounds, -1))
        return array(self._predictor.log_odds(nodes, self._encoded))
