"""What predictors of single nodes share: the odds of acceptance, and how they are judged.

Shapes: P rounds side by side, F nodes of each, B examples, H hidden size.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.cost.model import CostModel
from adaeagle.policy import Needs
from adaeagle.trace.trace import Trace
from predictors.acceptance.scorer import AcceptanceScorer
from predictors.base import AcceptancePredictions, Batch, Examples, Predictions, Predictor
from predictors.data.nodes import Nodes, read_nodes


class NodePredictor(Predictor, ABC):
    """Tells the odds of drafted nodes; constructor keywords of every kind include `shape`."""

    shape: str
    """Spec of the policy whose trees it is trained on."""

    num_confidences: int = 0
    """Of each node's distribution, see `adaeagle.policy.Needs`."""

    def encode(self, batch: Batch) -> Tensor | None:
        """Once a round, what the nodes of the round need of its context: [P, H]; None: nothing."""
        return None

    @abstractmethod
    def log_odds(self, nodes: Nodes, encoded: Tensor | None) -> Tensor:
        """log(p / (1 - p)) of acceptance, [P, F] float32, of nodes [P, F]."""

    def scorer(self) -> AcceptanceScorer:
        """What a rule asks while it drafts."""
        return AcceptanceScorer(self, self)

    @property
    def needs(self) -> Needs:
        """What a policy that asks it must need."""
        return Needs(entropy=True, num_confidences=self.num_confidences)

    def batch_log_odds(self, batch: Batch) -> Tensor:
        """Of examples, [B]."""
        columns = {name: each.unsqueeze(1) for name, each in batch.items()}
        return self.log_odds(Nodes.of_batch(columns), self.encode(batch)).squeeze(1)

    confidence = "log_probs"
    """The column of examples with the draft's own estimate of the same probability."""

    def predictions(self, batch: Batch) -> Predictions:
        probs = self.batch_log_odds(batch).sigmoid()
        return Predictions(
            AcceptancePredictions(
                probs=probs,
                confidences=batch[self.confidence].exp(),
                accepted=batch["accepted"],
                depths=batch["depths"].long(),
                examples=torch.arange(len(probs)),
            )
        )

    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Accuracy at even odds, and the Brier score of the probabilities."""
        accepted, probs = batch["accepted"].float(), self.batch_log_odds(batch).sigmoid()
        return {
            "accuracy": ((probs > 0.5) == batch["accepted"]).float().mean(),
            "brier": (probs - accepted).square().mean(),
        }


class AcceptancePredictor(NodePredictor, ABC):
    """Tells the odds that a drafted node is accepted, given that its parent is."""

    policies = ("specdec_pp", "disco")

    def examples(self, trace: Trace, cost: CostModel | None) -> Examples:
        """The nodes whose parents are accepted."""
        nodes = read_nodes(trace, self.shape, self.num_confidences)
        tested = nodes.columns.pop("tested")
        columns = {name: each[tested] for name, each in nodes.columns.items()}
        return Examples(nodes.rows[tested], columns)


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
