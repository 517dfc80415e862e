"""An EAGLE head on a whole known text, drafting after many of its prefixes at once.

The head's cache holds the pairs (f_i, t_{i+1}) of the text once, made from true features; a draft
after a prefix sees the pairs of that prefix only, as it does when the text is being decoded.

Shapes: A tokens, Q nodes, E nodes run so far, H hidden size, V draft vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaeagle.drafters.text_nodes import TextNodes
from adaeagle.models.kv_cache import KVCache, additive

if TYPE_CHECKING:
    from adaeagle.drafters.eagle import EagleDrafter


class EagleTextSession:
    """One text on an EAGLE head.

    Args:
        drafter: whose head it is.
        token_ids: [A] int64, prompt and text.
        features: [A, C*D] at least A - 1 rows, the target's features of the tokens.
    """

    def __init__(self, drafter: "EagleDrafter", token_ids: Tensor, features: Tensor) -> None:
        self._drafter = drafter
        self._device = drafter.target.device
        self._num_pairs = len(token_ids) - 1
        self._cache = KVCache(drafter.head.layer_shapes(), 2 * self._num_pairs)
        self._nodes = TextNodes()
        features = features[: self._num_pairs].to(self._device, drafter.target.dtype)
        states = drafter.states(features).unsqueeze(0)
        positions = torch.arange(self._num_pairs, device=self._device).unsqueeze(0)
        tokens = token_ids[1:].to(self._device).unsqueeze(0)
        # [1 + E, H] the head's output after each pair, then after each node.
        self._outputs = self._forward(tokens, states, positions, None)

    @property
    def num_run(self) -> int:
        """Nodes run since the last `forget`."""
        return len(self._nodes)

    def roots(self, lengths: Tensor) -> Tensor:
        """What follows prefixes of `lengths` [Q] tokens, at least 2: logits [Q, V]."""
        return self._drafter.logits(self._outputs[(lengths - 2).to(self._device)])

    def extend(self, token_ids: Tensor, parents: Tensor, lengths: Tensor) -> Tensor:
        """Runs nodes and proposes what follows each.

        Args:
            token_ids: [Q] int64.
            parents: [Q] int64 nodes run since the last `forget`, in their order; -1 for the root.
            lengths: [Q] int64, tokens of the prefix each draft began after.

        Returns:
            logits [Q, V].
        """
        pairs = lengths - 1
        depths, allowed = self._nodes.extend(parents, pairs, self._num_pairs)
        before = torch.where(parents < 0, lengths - 2, parents + self._num_pairs)
        states = self._outputs[before.to(self._device)].unsqueeze(0)
        positions = (pairs + depths - 1).to(self._device).unsqueeze(0)
        mask = additive(allowed.to(self._device), states.dtype)[None, None]
        tokens = token_ids.to(self._device).unsqueeze(0)
        outputs = self._forward(tokens, states, positions, mask)
        self._outputs = torch.cat((self._outputs, outputs))
        return self._drafter.logits(outputs)

    def forget(self) -> None:
        """Drops the nodes, so that their room can be used again."""
        self._cache.truncate(self._num_pairs)
        self._outputs = self._outputs[: self._num_pairs]
        self._nodes.forget()

    def _forward(
        self, token_ids: Tensor, states: Tensor, positions: Tensor, mask: Tensor | None
    ) -> Tensor:
        self._cache.reserve(token_ids.shape[1])
        embeddings = self._drafter.embed(token_ids)
        outputs = self._drafter.head(embeddings, states, positions, mask, self._cache)
        assert isinstance(outputs, Tensor)
        return outputs[0]
