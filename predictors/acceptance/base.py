"""What predictors of single nodes share: the odds of acceptance, and how they are judged.

Shapes: P rounds side by side, F nodes of each, B examples, S inputs, H hidden size.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaeagle.cost.model import CostModel
from adaeagle.identity import ModelIdentity
from adaeagle.policy import Context, Needs
from adaeagle.ranges import at_least
from adaeagle.trace.trace import Trace
from adaeagle.tree import DraftTree
from predictors.base import (
    AcceptancePredictions,
    Batch,
    Examples,
    Predictions,
    Predictor,
    TrainedPredictor,
)
from predictors.data.nodes import Nodes, read_nodes
from predictors.layers.context import Standardize
from predictors.layers.live import live_batch


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

    def scorer(self) -> "AcceptanceScorer":
        """What a rule asks while it drafts."""
        return AcceptanceScorer(self)

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


class AcceptanceScorer:
    """A trained predictor on the nodes of growing trees.

    Args:
        predictor: trained.
    """

    def __init__(self, predictor: NodePredictor) -> None:
        self._predictor = predictor
        self._encoded: Tensor | None = None  # [P, H] of this round

    @torch.no_grad()
    def begin(self, context: Context) -> None:
        """Takes in what is known before a round."""
        self._encoded = self._predictor.encode(live_batch(self._predictor, context))

    @torch.no_grad()
    def log_odds(self, tree: DraftTree, rows: Tensor) -> Tensor:
        """log(p / (1 - p)) of the acceptance of nodes, rows [P, F] of a tree: float32 [P, F]."""
        self._predictor.move_to(rows.device)
        return self._predictor.log_odds(Nodes.of_tree(tree, rows), self._encoded)


class TwoLayers(NodePredictor, TrainedPredictor, ABC):
    """A network of two layers on the draft's best probabilities and on numbers of a node."""

    scalars: ClassVar[tuple[str, ...]]
    """Of `Nodes.scalars`."""
    hidden_size: int

    def check_settings(self) -> None:
        at_least(1, hidden_size=self.hidden_size)

    def build(self, models: ModelIdentity, embedding: Tensor | None) -> None:
        size = self.num_confidences + len(self.scalars)
        self.scale = Standardize(size)
        self.network = nn.Sequential(
            nn.Linear(size, self.hidden_size), nn.SiLU(), nn.Linear(self.hidden_size, 1)
        )

    def measure(self, batch: Batch) -> None:
        check_classes(batch["accepted"])
        self.scale.measure(self._inputs(Nodes.of_batch(batch)))

    def log_odds(self, nodes: Nodes, encoded: Tensor | None) -> Tensor:
        odds: Tensor = self.network(self.scale(self._inputs(nodes)))
        return odds.squeeze(-1)

    def loss(self, batch: Batch) -> Tensor:
        return weighted_loss(self.batch_log_odds(batch), batch["accepted"], 1.0)

    def _inputs(self, nodes: Nodes) -> Tensor:
        """[..., S]."""
        scalars = nodes.scalars(*self.scalars)
        if self.num_confidences == 0:
            return scalars
        assert nodes.confidences is not None
        best = nodes.confidences[..., : self.num_confidences]  # others may need more of a tree
        return torch.cat((best.exp(), scalars), dim=-1)


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
