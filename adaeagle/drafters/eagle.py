"""Drafting with an EAGLE head on the target's features.

Source: EAGLE (Li et al. 2024, https://arxiv.org/abs/2401.15077) and EAGLE-3 (Li et al. 2025,
https://arxiv.org/abs/2503.01840), conventions of the official code.
Differs from it: the embedding is the target's where the checkpoint has none, whatever its files are
called; head and target are compared before anything runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaeagle.drafters.base import Drafter, Proposal
from adaeagle.drafters.eagle3_head import Eagle3Head, Eagle3HeadConfig, feature_layers
from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig
from adaeagle.drafters.head_files import Weights, fill, find_head, read_head, write_head
from adaeagle.drafters.head_layers import Attention, GatedMLP
from adaeagle.drafters.session import NetworkSession
from adaeagle.models.backbone import LAST
from adaeagle.models.kv_cache import KVCache
from adaeagle.models.target import Target


class EagleDrafter(Drafter):
    """An EAGLE head with the target whose features it reads.

    Args:
        head: the network, moved to the target's device and dtype.
        target: gives the embedding and, for EAGLE-1/2, the output head.
        embedding: [V, H] the head's own input embedding; None: the target's.
        name: what results call it.
    """

    def __init__(
        self,
        head: EagleHead | Eagle3Head,
        target: Target,
        embedding: Tensor | None = None,
        *,
        name: str = "eagle",
    ) -> None:
        _check_fit(head.config, target, embedding)
        self.target = target
        self.head = head.to(target.device, target.dtype).eval()
        self.network = self.head
        for module in self.head.modules():
            if isinstance(module, Attention | GatedMLP):
                module.fuse()
        self.embedding = None if embedding is None else embedding.to(target.device, target.dtype)
        self.name = name
        self.kind, self.feature_layers = "eagle", (LAST,)
        if isinstance(head, Eagle3Head):
            self.kind = "eagle3"
            self.feature_layers = feature_layers(target.config.num_hidden_layers)
            self.vocab_map = head.vocab_map

    @classmethod
    def from_pretrained(
        cls, name: str, target: Target, *, revision: str | None = None
    ) -> "EagleDrafter":
        """Loads a bundled head ("mini"), a folder or a Hugging Face id, official files as is.

        An EAGLE-3 head is told by its weights: nothing in `config.json` says what a head is.
        """
        raw, weights = read_head(find_head(name, revision))
        embedding = weights.pop("embed_tokens.weight", None)
        is_eagle3 = any(key == "d2t" or key.startswith("midlayer.") for key in weights)
        load = _load_eagle3 if is_eagle3 else _load_eagle
        return cls(load(name, raw, weights), target, embedding, name=name)

    def save_pretrained(self, folder: Path) -> None:
        """Writes the head in the official layout, without the embedding, which is the target's."""
        write_head(folder, self.head.config.to_json(), self.head)

    def embed(self, token_ids: Tensor) -> Tensor:
        """[...] int64 → [..., H]."""
        if self.embedding is None:
            return self.target.embed(token_ids)
        return nn.functional.embedding(token_ids, self.embedding)

    def states(self, features: Tensor) -> Tensor:
        """What the head reads of the target's features: [..., C*D] → [..., H]."""
        return self.head.fuse(features) if isinstance(self.head, Eagle3Head) else features

    def logits(self, states: Tensor) -> Tensor:
        """The draft distribution from the head's output: [..., H] → [..., V of the draft]."""
        if isinstance(self.head, Eagle3Head):
            return self.head.logits(states)
        return self.target.logits(states)

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> "EagleSession":
        return EagleSession(self, len(prompts), capacity)

    def open(self, token_ids: Tensor, features: Tensor | None) -> "EagleSession":
        num_pairs, device = len(token_ids) - 1, self.target.device
        features = _needed(features)[:num_pairs].to(device, self.target.dtype)
        session = EagleSession(self, 1, 2 * num_pairs)
        session.open_text(token_ids[1:].to(device), self.states(features))
        return session


class EagleSession(NetworkSession):
    """Texts on a head: pairs of true features, and the nodes of the current round.

    The pair (f_i, t_{i+1}) takes slot i. Predicted features are thrown away after each round and
    the cache goes on from the target's own.
    """

    def __init__(self, drafter: EagleDrafter, num_texts: int, capacity: int) -> None:
        cache = KVCache(drafter.head.layer_shapes(), capacity, num_texts)
        super().__init__(cache, drafter.target.dtype, num_unseen=1)
        self._drafter = drafter

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        return self.catch_up_on(token_ids, self._drafter.states(_needed(features)), counts)

    def run(
        self, token_ids: Tensor, states: Tensor | None, positions: Tensor, mask: Tensor | None
    ) -> Tensor:
        self._cache.reserve(token_ids.shape[1])
        embeddings = self._drafter.embed(token_ids)
        outputs = self._drafter.head(embeddings, states, positions, mask, self._cache)
        assert isinstance(outputs, Tensor)
        return outputs

    def logits(self, outputs: Tensor) -> Tensor:
        return self._drafter.logits(outputs)

    def states_after(self, outputs: Tensor) -> Tensor:
        return outputs


def _needed(features: Tensor | None) -> Tensor:
    if features is None:
        raise ValueError("an EAGLE head needs the target's features, got none")
    return features


def _load_eagle(name: str, raw: dict[str, Any], weights: Weights) -> EagleHead:
    head = EagleHead(EagleHeadConfig.from_json(raw))
    fill(head, weights, name, "EAGLE-1/2")
    return head


def _load_eagle3(name: str, raw: dict[str, Any], weights: Weights) -> Eagle3Head:
    query = weights.get("midlayer.self_attn.q_proj.weight")
    if query is not None and raw.get("num_attention_heads"):
        # The official code ignores these keys of the config, others do not: the weights decide.
        raw = raw | {
            "head_dim": query.shape[0] // raw["num_attention_heads"],
            "qkv_bias": "midlayer.self_attn.q_proj.bias" in weights,
        }
    head = Eagle3Head(Eagle3HeadConfig.from_json(raw))
    offsets, _ = weights.pop("d2t", None), weights.pop("t2d", None)
    if head.has_draft_vocab:
        if offsets is None:
            raise ValueError(
                f"{name} must hold 'd2t', the target ids of its {head.config.draft_vocab_size} "
                f"draft tokens, got {sorted(weights)}"
            )
        head.set_vocab(offsets + torch.arange(len(offsets)))
        weights = weights | {"d2t": head.d2t, "t2d": head.t2d}
    fill(head, weights, name, "EAGLE-3")
    return head


def _check_fit(
    config: EagleHeadConfig | Eagle3HeadConfig, target: Target, embedding: Tensor | None
) -> None:
    reads = ("hidden_size", config.hidden_size)
    if isinstance(config, Eagle3HeadConfig):
        reads = ("target_hidden_size", config.target_hidden_size)
    for what, found, expected in (
        (*reads, target.hidden_size),
        ("vocab_size", config.vocab_size, target.vocab_size),
    ):
        if found != expected:
            raise ValueError(f"the head's {what} must be {target.name}'s {expected}, got {found}")
    shape = None if embedding is None else tuple(embedding.shape)
    expected_shape = (config.vocab_size, config.hidden_size)
    if shape != expected_shape and (shape or config.hidden_size != target.hidden_size):
        raise ValueError(
            f"the head's embed_tokens.weight must have shape {expected_shape}, got {shape}"
        )
