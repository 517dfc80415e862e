"""Drafting with a small causal language model of the target's vocabulary.

Source: speculative decoding, Leviathan et al. 2022, https://arxiv.org/abs/2211.17192.
Differs from the paper: trees as well as chains.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.data.bundled import bundled_folder
from adaeagle.drafters.base import Drafter, Proposal
from adaeagle.drafters.draft_vocab import is_padded
from adaeagle.drafters.session import NetworkSession
from adaeagle.models.kv_cache import KVCache
from adaeagle.models.supported import read_config
from adaeagle.models.target import Target

log = logging.getLogger(__name__)

LM = "-lm"
"""The end of a bundled model's name that means its small LM: `mini-lm`."""


class ModelDrafter(Drafter):
    """A causal LM that proposes for a target with the same vocabulary.

    Vocabularies that are padded to different sizes are one: what both have is drafted.

    Args:
        model: the draft model; a `Target` like any other.
        target: the model it drafts for.
    """

    kind = "lm"

    def __init__(self, model: Target, target: Target) -> None:
        if not is_padded(model.vocab_size, target.vocab_size):
            raise ValueError(
                f"the draft model's vocab_size must be {target.name}'s {target.vocab_size}, "
                f"got {model.vocab_size}"
            )
        tokens = [one.tokenizer.get_vocab() for one in (model, target) if one.tokenizer]
        if len(tokens) == 2 and tokens[0] != tokens[1]:
            log.warning(
                "%s and %s have different tokenizers: few of its tokens will be accepted",
                model.name,
                target.name,
            )
        self.num_common = min(model.vocab_size, target.vocab_size)
        if self.num_common < target.vocab_size:
            self.vocab_map = torch.arange(self.num_common, device=target.device)
        self.model = model
        self.network = model.model
        self.name = model.name

    @classmethod
    def from_pretrained(
        cls, name: str, target: Target, *, revision: str | None = None
    ) -> "ModelDrafter":
        """Loads a bundled model ("mini" or "mini-lm"), a folder or a Hugging Face id.

        Its dtype is the target's.
        """
        bundled = bundled_folder(name.removesuffix(LM), "draft_lm")
        folder = str(name if bundled is None else bundled)
        config = read_config(folder, revision, {}).get_text_config()
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

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> "ModelSession":
        return ModelSession(self, prompts, capacity)

    def open(self, token_ids: Tensor, features: Tensor | None) -> "ModelSession":
        session = ModelSession(self, [token_ids[:1].tolist()], 2 * len(token_ids))
        session.open_text(token_ids.to(self.model.device), None)
        return session


class ModelSession(NetworkSession):
    """Texts on a draft model: the committed tokens, then the current round's nodes."""

    def __init__(
        self, drafter: ModelDrafter, prompts: Sequence[Sequence[int]], capacity: int
    ) -> None:
        self._drafter, model = drafter, drafter.model
        super().__init__(model.new_cache(capacity, len(prompts)), model.dtype, num_unseen=0)
        self._model = model
        # `catch_up` begins with the second token of a text: the first ones that are still unseen.
        self._first = {row: prompt_ids[0] for row, prompt_ids in enumerate(prompts)}

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        if begun := {row: first for row, first in self._first.items() if counts[row] > 0}:
            shifted = F.pad(token_ids, (0, 1))
            for row, first in begun.items():
                shifted[row, 1:], shifted[row, 0] = token_ids[row], first
                del self._first[row]
            counts = [count + (row in begun) for row, count in enumerate(counts)]
            token_ids = shifted[:, : max(counts)]
        return super().catch_up(token_ids, None, counts)

    def replace(self, row: int, prompt_ids: Sequence[int]) -> None:
        super().replace(row, prompt_ids)
        self._first[row] = prompt_ids[0]

    def keep(self, rows: Sequence[int]) -> None:
        super().keep(rows)
        first = {place: self._first.get(row) for place, row in enumerate(rows)}
        self._first = {place: token for place, token in first.items() if token is not None}

    def run(
        self,
        token_ids: Tensor,
        states: Tensor | None,
        positions: Tensor,
        mask: Tensor | None,
        cache: KVCache,
    ) -> Tensor:
        # A target's text may outgrow the draft model's context: drafts get worse there, no more.
        positions = positions.clamp(max=self._model.max_length - 1)
        token_ids = token_ids.clamp(max=self._model.vocab_size - 1)  # the rest is padding
        return self._model.forward(token_ids, positions, mask, cache).last

    def logits(self, outputs: Tensor) -> Tensor:
        return self._model.logits(outputs)[..., : self._drafter.num_common]

    def states_after(self, outputs: Tensor) -> None:
        return None
