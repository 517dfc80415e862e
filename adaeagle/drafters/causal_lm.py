"""Drafting with a small causal language model of the target's vocabulary.

Source: speculative decoding, Leviathan et al. 2022, https://arxiv.org/abs/2211.17192.
Differs from the paper: trees as well as chains.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoConfig

from adaeagle.data.bundled import bundled_folder
from adaeagle.drafters.model_text import ModelTextSession
from adaeagle.drafters.node_mask import NodeMask
from adaeagle.models.kv_cache import additive, causal_mask
from adaeagle.models.target import Target


class ModelDrafter:
    """A causal LM that proposes for a target with the same vocabulary.

    Args:
        model: the draft model; a `Target` like any other.
        target: the model it drafts for.
    """

    feature_layers: tuple[int, ...] = ()
    vocab_map: Tensor | None = None

    def __init__(self, model: Target, target: Target) -> None:
        if model.vocab_size != target.vocab_size:
            raise ValueError(
                f"the draft model's vocab_size must be {target.name}'s {target.vocab_size}, "
                f"got {model.vocab_size}"
            )
        self.model = model
        self.network = model.model
        """What tells this drafter from others, see `adaeagle.identity`."""
        self.name = model.name

    @classmethod
    def from_pretrained(
        cls, name: str, target: Target, *, revision: str | None = None
    ) -> "ModelDrafter":
        """Loads a bundled model ("mini"), a folder or a Hugging Face id, in the target's dtype."""
        folder = str(bundled_folder(name, "draft_lm") or name)
        config = AutoConfig.from_pretrained(folder, revision=revision).get_text_config()
        context = getattr(config, "max_position_embeddings", None) or target.max_length
        model = Target.from_pretrained(
            folder,
            device=str(target.device),
            dtype=target.dtype,
            max_length=min(context, target.max_length),
            revision=revision,
            kernels=target.kernels,
        )
        return cls(model, target)

    def begin(self, prompt_ids: Sequence[int], capacity: int) -> "ModelSession":
        return ModelSession(self.model, prompt_ids, capacity)

    def read(self, token_ids: Tensor, features: Tensor | None) -> ModelTextSession:
        return ModelTextSession(self.model, token_ids)


class ModelSession:
    """One text's cache of the draft model: the committed tokens, then the current round's nodes."""

    def __init__(self, model: Target, prompt_ids: Sequence[int], capacity: int) -> None:
        self._model = model
        self._cache = model.new_cache(capacity)
        # A target's text may outgrow the draft model's context: drafts get worse there, no more.
        self._last_position = model.max_length - 1
        # `catch_up` begins with the second token of the text.
        self._first: Tensor | None = torch.tensor([[prompt_ids[0]]], device=model.device)
        self._num_committed = 0
        self._num_levels = 0
        self._nodes = NodeMask()

    def catch_up(self, token_ids: Tensor, features: Tensor | None) -> Tensor:
        if self._first is not None:
            token_ids = torch.cat((self._first, token_ids), dim=1)
            self._first = None
        self._cache.truncate(self._num_committed)
        self._nodes.reset()
        self._num_levels = 0
        start, num_new = self._num_committed, token_ids.shape[1]
        self._num_committed += num_new
        mask = None
        if start > 0 and num_new > 1:
            allowed = causal_mask(num_new, self._num_committed, token_ids.device)
            mask = additive(allowed, self._model.dtype)[None, None]
        positions = torch.arange(start, self._num_committed, device=token_ids.device).unsqueeze(0)
        positions = positions.clamp_(max=self._last_position)
        hidden = self._model.forward(token_ids, positions, mask, self._cache).last
        return self._model.logits(hidden[:, -1:])

    def extend(self, token_ids: Tensor, origins: Tensor) -> Tensor:
        # A node at depth d follows num_committed tokens and d - 1 nodes; one level a call.
        position = min(self._num_committed + self._num_levels, self._last_position)
        positions = torch.full_like(token_ids, position)
        self._num_levels += 1
        allowed = self._nodes.extend(origins, self._num_committed)
        mask = None if allowed is None else additive(allowed, self._model.dtype)
        hidden = self._model.forward(token_ids, positions, mask, self._cache).last
        return self._model.logits(hidden)
