"""The Lightweight Draft Length Predictor: how long a chain to draft, told before drafting.

Source: AdaEAGLE, Zhang et al. 2024, https://arxiv.org/abs/2412.18910. Input: embedding and feature
of the last token that the target was run on. A three-layer MLP with residual connections gives the
length as one number, which is rounded and clamped. The loss is the absolute error, times a factor
where the length is predicted too short, since a verification costs many draft forwards. Trained on
accepted lengths of the frozen draft model on the target's own greedy text: AdamW, 5e-5, cosine,
batches of 128, 5 epochs. One of its ablations predicts a class for each length instead.
Differs from the paper, which states neither sizes nor activation, factor or longest length: hidden
size 128, SiLU, factor 3, 16 tokens. Features are moved and scaled as in training, dropout is 0.1.
Besides: labels from dynamic programming under a cost model, and a variant that also reads the
pending token, which is decided when drafting begins.

Shapes: P rounds side by side, B examples, K = k_max.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaeagle.cost.model import CostModel
from adaeagle.identity import ModelIdentity
from adaeagle.policy import Context
from adaeagle.ranges import above, at_least, in_unit
from adaeagle.trace.trace import Trace
from predictors.base import (
    Batch,
    Examples,
    LengthPredictions,
    Predictions,
    TrainedPredictor,
    setting_fields,
)
from predictors.data.chains import dp_lengths, read_chains
from predictors.layers.context import ContextLayer, ResidualBlocks
from predictors.layers.live import live_batch

Labels = Literal["paper", "dp"]


@setting_fields
class LengthPredictor(TrainedPredictor):
    """Tells a chain's best length from what is known before a round drafts.

    Args:
        k_max: longest length; of labels and predictions.
        labels: "paper": what is accepted; "dp": what makes the text cheapest.
        hidden_size: of the network.
        dropout: share of each layer that training leaves out.
        use_embedding: read the embedding of the last token that has a feature.
        use_pending: read that of the pending token.
        num_blocks: residual layers between the first and the last.
    """

    policies = ("ldlp", "ldlp_ddd")
    needs_features = True
    num_outputs: ClassVar[int | None] = 1
    """None: one for each length."""

    k_max: int = 16
    labels: Labels = "paper"
    hidden_size: int = 128
    dropout: float = 0.1
    use_embedding: bool = True
    use_pending: bool = False
    num_blocks: int = 2

    def check_settings(self) -> None:
        at_least(1, k_max=self.k_max, hidden_size=self.hidden_size)
        at_least(0, num_blocks=self.num_blocks)
        in_unit(dropout=self.dropout, with_one=False)
        if self.labels not in ("paper", "dp"):
            raise ValueError(f"labels must be 'paper' or 'dp', got {self.labels!r}")
        self.needs_embedding = self.use_embedding or self.use_pending
        self.needs_cost = self.labels == "dp"

    def build(self, models: ModelIdentity, embedding: Tensor | None) -> None:
        self.first = ContextLayer(
            models, self.hidden_size, embedding, self.use_embedding, self.use_pending
        )
        self.blocks = ResidualBlocks(self.hidden_size, self.num_blocks, self.dropout)
        self.last = nn.Linear(self.hidden_size, self.num_outputs or self.k_max + 1)

    def examples(self, trace: Trace, cost: CostModel | None) -> Examples:
        chains = read_chains(trace, self.k_max)
        lengths = chains.lengths
        if self.labels == "dp":
            assert cost is not None
            lengths = dp_lengths(trace, chains, cost)
        rows = chains.whole.nonzero().flatten()
        return Examples(rows, {"length": lengths[rows]})

    def measure(self, batch: Batch) -> None:
        lengths = batch["length"]
        if bool((lengths == lengths[0]).all()):
            raise ValueError(f"lengths must differ, got {int(lengths[0])} at every position")
        self.first.measure(batch)
        self.begin_at(lengths)

    @abstractmethod
    def begin_at(self, lengths: Tensor) -> None:
        """Sets the last layer's bias so that training begins at what is usual, of lengths [B]."""

    def forward(self, batch: Batch) -> Tensor:
        """[B, outputs]."""
        outputs: Tensor = self.last(self.blocks(F.silu(self.first(batch))))
        return outputs

    @abstractmethod
    def lengths(self, batch: Batch) -> Tensor:
        """The predicted lengths, [B] float32, not rounded."""

    def scorer(self) -> Callable[[Context], Tensor]:
        """What a rule asks before a round: the lengths, [P] float32, not rounded."""
        return self._live_lengths

    @torch.no_grad()
    def _live_lengths(self, context: Context) -> Tensor:
        return self.lengths(live_batch(self, context))

    def predictions(self, batch: Batch) -> Predictions:
        lengths = self.lengths(batch).clamp(0, self.k_max)
        examples = torch.arange(len(lengths))
        return Predictions(lengths=LengthPredictions(lengths, batch["length"], examples))

    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        errors = self.lengths(batch).clamp(0, self.k_max) - batch["length"]
        return {"error": errors.abs().mean(), "bias": errors.mean()}


@setting_fields
class LDLPPredictor(LengthPredictor):
    """Predicts the length as a number.

    Args:
        k_max: as all others that are not described here, see `LengthPredictor`.
        penalty: how many times dearer it is to predict one token too few than one too many.
    """

    kind = "ldlp"

    penalty: float = 3.0

    def check_settings(self) -> None:
        super().check_settings()
        above(0, penalty=self.penalty)

    def begin_at(self, lengths: Tensor) -> None:
        # The constant that the loss likes best is a quantile.
        quantile = lengths.float().quantile(self.penalty / (1 + self.penalty))
        nn.init.constant_(self.last.bias, float(quantile))

    def lengths(self, batch: Batch) -> Tensor:
        return self(batch)[:, 0]  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> Tensor:
        errors = self.lengths(batch) - batch["length"]
        return torch.where(errors < 0, -self.penalty * errors, errors).mean()


@setting_fields
class LDLPClassPredictor(LengthPredictor):
    """Predicts a probability for each length and takes the likeliest."""

    kind = "ldlp_class"
    num_outputs = None

    def begin_at(self, lengths: Tensor) -> None:
        counts = torch.bincount(lengths, minlength=self.k_max + 1) + 1.0
        with torch.no_grad():
            self.last.bias.copy_((counts / counts.sum()).log())

    def lengths(self, batch: Batch) -> Tensor:
        return self(batch).argmax(1).float()  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self(batch), batch["length"])
