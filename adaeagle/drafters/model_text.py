"""A small causal LM on a whole known text, drafting after many of its prefixes at once.

Shapes: A tokens, Q nodes, E nodes run so far, D hidden size, V vocabulary.
"""

import torch
from torch import Tensor

from adaeagle.drafters.text_nodes import TextNodes
from adaeagle.models.kv_cache import additive
from adaeagle.models.target import Target


class ModelTextSession:
    """One text on a draft model.

    Args:
        model: the draft model.
        token_ids: [A] int64, prompt and text.
    """

    def __init__(self, model: Target, token_ids: Tensor) -> None:
        self._model = model
        self._num_tokens = len(token_ids)
        self._cache = model.new_cache(2 * self._num_tokens)
        self._nodes = TextNodes()
        positions = torch.arange(self._num_tokens, device=model.device)
        # [A, D] hidden states after every token of the text.
        self._hidden = self._forward(token_ids, positions, None)

    @property
    def num_run(self) -> int:
        """Nodes run since the last `forget`."""
        return len(self._nodes)

    def roots(self, lengths: Tensor) -> Tensor:
        """What follows prefixes of `lengths` [Q] tokens, at least 1: logits [Q, V]."""
        return self._model.logits(self._hidden[(lengths - 1).to(self._model.device)])

    def extend(self, token_ids: Tensor, parents: Tensor, lengths: Tensor) -> Tensor:
        """Runs nodes and proposes what follows each, as `EagleTextSession.extend`."""
        depths, allowed = self._nodes.extend(parents, lengths, self._num_tokens)
        mask = additive(allowed.to(self._model.device), self._model.dtype)[None, None]
        return self._model.logits(self._forward(token_ids, lengths + depths - 1, mask))

    def forget(self) -> None:
        """Drops the nodes, so that their room can be used again."""
        self._cache.truncate(self._num_tokens)
        self._nodes.forget()

    def _forward(self, token_ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        device = self._model.device
        # A target's text may outgrow the draft model's context: drafts get worse there, no more.
        positions = positions.to(device).clamp(max=self._model.max_length - 1).unsqueeze(0)
        tokens = token_ids.to(device).unsqueeze(0)
        return self._model.forward(tokens, positions, mask, self._cache).last[0]
