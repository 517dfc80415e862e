"""An acceptance head in the manner of SpecDec++: the odds of each drafted token.

Source: SpecDec++, Huang et al. 2024, https://arxiv.org/abs/2405.19715: a residual network of three
layers on the draft model's hidden state gives the probability that a drafted token is accepted,
given that those before it are; binary cross-entropy, with a rejected token's weight 6 of 1, 3, 6
and 12 tried.
Differs from the paper: its input. A trace keeps what the draft model says, not its hidden states,
so the head reads the node's probability, that of its path, entropy, depth and the draft's ten best
probabilities, and the target's feature of the last verified token, which the paper does not have.
The paper mixes 15 % of the target's tokens into the drafts it trains on, to see tokens beyond the
first rejection; we train on what a verification judges, where the label needs no such help.
Hidden size 128, SiLU, dropout 0.1.

Shapes: P rounds side by side, F nodes of each, B examples, H hidden size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaeagle.identity import ModelIdentity
from adaeagle.ranges import above, at_least, in_unit
from predictors.acceptance.base import AcceptancePredictor, check_classes, weighted_loss
from predictors.base import Batch, TrainedPredictor, setting_fields
from predictors.data.nodes import Nodes
from predictors.layers.context import ContextLayer, ResidualBlocks, Standardize

SCALARS = ("prob", "path_prob", "log_prob", "path_log_prob", "entropy", "depth")


@setting_fields
class SpecDecPPPredictor(AcceptancePredictor, TrainedPredictor):
    """Residual network on what is known of a node and on the target's feature.

    Args:
        shape: spec of the policy whose drafts it is trained on.
        rejected_weight: of a rejected node's loss; above 1 it is cautious.
        hidden_size: of the network.
        dropout: share of each layer that training leaves out.
        use_feature: read the target's feature.
        num_blocks: residual layers between the first and the last.
    """

    kind = "specdec_pp"
    num_confidences = 10

    shape: str = "chain(length=16)"
    rejected_weight: float = 6.0
    hidden_size: int = 128
    dropout: float = 0.1
    use_feature: bool = True
    num_blocks: int = 2

    def check_settings(self) -> None:
        above(0, rejected_weight=self.rejected_weight)
        at_least(1, hidden_size=self.hidden_size)
        at_least(0, num_blocks=self.num_blocks)
        in_unit(dropout=self.dropout, with_one=False)
        self.needs_features = self.use_feature

    def build(self, models: ModelIdentity, embedding: Tensor | None) -> None:
        size = len(SCALARS) + self.num_confidences
        self.context = None
        if self.use_feature:
            self.context = ContextLayer(models, self.hidden_size, None, False, False)
        self.scale = Standardize(size)
        self.first = nn.Linear(size, self.hidden_size)
        self.blocks = ResidualBlocks(self.hidden_size, self.num_blocks, self.dropout)
        self.last = nn.Linear(self.hidden_size, 1)

    def measure(self, batch: Batch) -> None:
        check_classes(batch["accepted"])
        if self.context is not None:
            self.context.measure(batch)
        self.scale.measure(_inputs(Nodes.of_batch(batch)))

    def encode(self, batch: Batch) -> Tensor | None:
        return None if self.context is None else self.context(batch)

    def log_odds(self, nodes: Nodes, encoded: Tensor | None) -> Tensor:
        hidden = self.first(self.scale(_inputs(nodes)))  # [P, F, H]
        if encoded is not None:
            hidden = hidden + encoded.unsqueeze(1)
        odds: Tensor = self.last(self.blocks(F.silu(hidden)))
        return odds.squeeze(-1)

    def loss(self, batch: Batch) -> Tensor:
        return weighted_loss(self.batch_log_odds(batch), batch["accepted"], self.rejected_weight)


def _inputs(nodes: Nodes) -> Tensor:
    """[..., S]."""
    assert nodes.confidences is not None
    best = nodes.confidences[..., : SpecDecPPPredictor.num_confidences]  # others may need more
    return torch.cat((nodes.scalars(*SCALARS), best.exp()), dim=-1)
