"""What predictors of single nodes share: the odds of acceptance, and how they are judged.

Shapes: P rounds side by side, F nodes of each, B examples, H hidden size.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.cost.model import CostModel
from adaeagle.trace.trace import Trace
from predictors.acceptance.scorer import Odds, TorchOdds
from predictors.base import Batch, Examples, Predictor
from predictors.data.nodes import Nodes, read_nodes


class AcceptancePredictor(Predictor, ABC):
    """Tells the odds that a drafted node is accepted, given that its parent is.

    Constructor keywords of every kind include `shape`, the spec of the policy whose trees it is
    trained on.
    """

    shape: str
    num_confidences: int = 0
    """Of each node's distribution, see `adaeagle.policy.Policy`."""

    def encode(self, batch: Batch) -> Tensor | None:
        """Once a round, what the nodes of the round need of its context: [P, H]; None: nothing."""
        return None

    @abstractmethod
    def log_odds(self, nodes: Nodes, encoded: Tensor | None) -> Tensor:
        """log(p / (1 - p)) of acceptance, [P, F] float32, of nodes [P, F]."""

    def odds(self) -> Odds:
        """What a rule asks; a network of little arithmetic has one in NumPy."""
        return TorchOdds(self)

    def examples(self, trace: Trace, cost: CostModel | None) -> Examples:
        """The nodes whose parents are accepted."""
        found = read_nodes(trace, self.shape, self.num_confidences)
        tested = found.columns.pop("tested")
        columns = {name: each[tested] for name, each in found.columns.items()}
        return Examples(found.rows[tested], columns)

    def batch_log_odds(self, batch: Batch) -> Tensor:
        """Of examples, [B]."""
        columns = {name: each.unsqueeze(1) for name, each in batch.items()}
        return self.log_odds(Nodes.of_batch(columns), self.encode(batch)).squeeze(1)

    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Accuracy at even odds, and the Brier score of the probabilities."""
        accepted, probs = batch["accepted"].float(), self.batch_log_odds(batch).sigmoid()
        return {
            "accuracy": ((probs > 0.5) == batch["accepted"]).float().mean(),
            "brier": (probs - accepted).square().mean(),
        }


def check_classes(accepted: Tensor) -> None:
    """Refuses labels [B] of one class.

    Raises:
        ValueError: all are accepted, or none is.
    """
    if bool((accepted == accepted[0]).all()):
        found = "accepted" if bool(accepted[0]) else "rejected"
        raise ValueError(
            f"labels must be of both classes, got {len(accepted)} {found} and no other"
        )


def weighted_loss(log_odds: Tensor, accepted: Tensor, rejected_weight: float) -> Tensor:
    """Binary cross-entropy, a rejected node's times `rejected_weight`: mean of [B]."""
    losses = F.binary_cross_entropy_with_logits(log_odds, accepted.float(), reduction="none")
    return torch.where(accepted, losses, rejected_weight * losses).mean()
