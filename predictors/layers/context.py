"""Layers of networks on what is known before a round drafts: tokens and the target's feature.

Shapes: B rounds, V vocabulary, D feature size, H hidden size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaeagle.identity import ModelIdentity
from predictors.base import Batch, finite
from predictors.token_table import TokenTable


class Standardize(nn.Module):
    """Moves and scales values [..., D] to mean 0 and deviation 1, as they were in training."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def measure(self, values: Tensor) -> None:
        """Takes mean and deviation of examples [B, D]; what does not vary is moved alone."""
        values = values.float()
        deviation = values.std(0, correction=0)
        self.get_buffer("mean").copy_(values.mean(0))
        self.get_buffer("deviation").copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        return (values.float() - self.get_buffer("mean")) / self.get_buffer("deviation")


class ContextLayer(nn.Module):
    """The first layer of a network on tokens and feature: their concatenation, times a matrix.

    Args:
        models: whose features and tokens they are.
        hidden_size: H.
        embedding: [V, D] the target's input embedding, to train with; None: to load into.
        use_embedding: read the embedding of the last token that has a feature.
        use_pending: read that of the pending token, which comes after it.
    """

    def __init__(
        self,
        models: ModelIdentity,
        hidden_size: int,
        embedding: Tensor | None,
        use_embedding: bool,
        use_pending: bool,
    ) -> None:
        super().__init__()
        self.scale = Standardize(models.feature_size)
        self.feature = nn.Linear(models.feature_size, hidden_size)
        self.last = self.pending = None
        if use_embedding:
            self.last = TokenTable(models.vocab_size, hidden_size, embedding)
        if use_pending:
            self.pending = TokenTable(models.vocab_size, hidden_size, embedding)

    def measure(self, batch: Batch) -> None:
        """Learns the scale of features from examples."""
        self.scale.measure(finite(batch["features"]))

    def forward(self, batch: Batch) -> Tensor:
        """[B, H]."""
        hidden: Tensor = self.feature(self.scale(batch["features"]))
        if self.last is not None:
            hidden = hidden + self.last(batch["last_token_ids"])
        if self.pending is not None:
            hidden = hidden + self.pending(batch["token_ids"])
        return hidden


class ResidualBlocks(nn.Module):
    """Layers x + silu(W x + b).

    Args:
        hidden_size: H.
        num_layers: how many.
        dropout: share of a layer's outcomes that training leaves out.
    """

    def __init__(self, hidden_size: int, num_layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(num_layers))
        self.dropout = dropout

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] → [..., H]."""
        for layer in self.layers:
            hidden = hidden + F.dropout(F.silu(layer(hidden)), self.dropout, self.training)
        return hidden
