"""How a rule asks a trained predictor of acceptance: once before a round, and for each new node.

Shapes: P rounds side by side, F nodes of each, H hidden size.
"""

from typing import Protocol

import torch
from torch import Tensor

from adaeagle.policy import Context
from adaeagle.tree import DraftTree
from predictors.base import Batch, Predictor
from predictors.data.nodes import Nodes
from predictors.layers.live import live_batch


class NodeNetwork(Protocol):
    """What tells the log-odds of nodes."""

    def encode(self, batch: Batch) -> Tensor | None: ...

    def log_odds(self, nodes: Nodes, encoded: Tensor | None) -> Tensor: ...


class AcceptanceScorer:
    """A trained predictor on the nodes of growing trees.

    Args:
        predictor: trained.
        network: the same, as what tells log-odds.
    """

    def __init__(self, predictor: Predictor, network: NodeNetwork) -> None:
        self._predictor = predictor
        self._network = network
        self._encoded: Tensor | None = None  # [P, H] of this round

    @torch.no_grad()
    def begin(self, context: Context) -> None:
        """Takes in what is known before a round."""
        self._encoded = self._network.encode(live_batch(self._predictor, context))

    @torch.no_grad()
    def log_odds(self, tree: DraftTree, rows: Tensor) -> Tensor:
        """log(p / (1 - p)) of the acceptance of nodes, rows [P, F] of a tree: float32 [P, F]."""
        self._predictor.move_to(rows.device)
        return self._network.log_odds(Nodes.of_tree(tree, rows), self._encoded)
