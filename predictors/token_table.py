"""A linear layer on token embeddings, which is saved as the table of its outcomes.

It has as many outcomes as there are tokens. So a saved predictor is whole without the target's
weights, and a decision costs a look-up; the outcomes are the same.

Shapes: B tokens, V vocabulary, D embedding size, H hidden size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenTable(nn.Module):
    """A linear layer, without bias, on a token's embedding.

    Args:
        vocab_size: V.
        hidden_size: H.
        embedding: [V, D], frozen and no part of checkpoints; None: a table to load into.
    """

    def __init__(self, vocab_size: int, hidden_size: int, embedding: Tensor | None) -> None:
        super().__init__()
        self.is_table = embedding is None
        if embedding is None:
            self.register_buffer("table", torch.zeros(vocab_size, hidden_size))
            return
        if embedding.ndim != 2 or len(embedding) != vocab_size:
            raise ValueError(
                f"embedding must have a row for each of {vocab_size} tokens, "
                f"got {tuple(embedding.shape)}"
            )
        # Models differ in the scale of their embeddings.
        scaled = embedding.detach().float() / embedding.detach().float().std()
        self.register_buffer("embedding", scaled, persistent=False)
        self.layer = nn.Linear(embedding.shape[1], hidden_size, bias=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        """[B] → [B, H]."""
        if self.is_table:
            return F.embedding(token_ids, self.get_buffer("table"))
        embedded: Tensor = self.layer(F.embedding(token_ids, self.get_buffer("embedding")))
        return embedded

    @torch.no_grad()
    def to_table(self) -> Tensor:
        """[V, H] the outcomes of all tokens."""
        if self.is_table:
            return self.get_buffer("table")
        outcomes: Tensor = self.layer(self.get_buffer("embedding"))
        return outcomes
