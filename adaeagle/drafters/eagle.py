"""Drafting with an EAGLE head on the target's features.

Source: EAGLE (Li et al. 2024, https://arxiv.org/abs/2401.15077) and EAGLE-3 (Li et al. 2025,
https://arxiv.org/abs/2503.01840), conventions of the official code.
Differs from it: the embedding is the target's where the checkpoint has none, whatever its files are
called; head and target are compared before anything runs.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaeagle.drafters.base import Drafter
from adaeagle.drafters.draft_vocab import check_vocab, is_padded
from adaeagle.drafters.eagle3_head import Eagle3Head, Eagle3HeadConfig, feature_layers
from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig
from adaeagle.drafters.head_files import Weights, fill, find_head, read_head, write_head
from adaeagle.drafters.head_layers import Attention, GatedMLP
from adaeagle.drafters.session import NetworkSession
from adaeagle.models.backbone import LAST
from adaeagle.models.kernels import install
from adaeagle.models.kv_cache import KVCache
from adaeagle.models.target import Target

EAGLE3_LAYER = "midlayer."
"""What the official files call the layer of an EAGLE-3 head."""


class EagleDrafter(Drafter):
    """An EAGLE head with the target whose features it reads.

    Args:
        head: the network, moved to the target's device and dtype.
        target: gives the embedding and, for EAGLE-1/2, the output head.
        embedding: [V, H] the head's own input embedding; None: the target's.
        draft_vocab: [W] target ids that a head without an output layer of its own drafts from: the
            target's is cut to them (FR-Spec). None: those the head was trained for, or all.
        name: what results call it.

    Raises:
        ValueError: head and target do not fit, or `draft_vocab` is none of this head.
    """

    def __init__(
        self,
        head: EagleHead | Eagle3Head,
        target: Target,
        embedding: Tensor | None = None,
        *,
        draft_vocab: Tensor | None = None,
        name: str = "eagle",
    ) -> None:
        _check_fit(head.config, target, embedding)
        self.target = target
        self.head = head.to(target.device, target.dtype).eval()
        self.network = self.head
        for module in self.head.modules():
            if isinstance(module, Attention | GatedMLP):
                module.fuse(target.kernels)
        install(self.head, target.kernels)
        self.embedding = None if embedding is None else embedding.to(target.device, target.dtype)
        self.name = name
        self.kind, self.feature_layers = "eagle", (LAST,)
        self.vocab_map = _draft_vocab(self.head, draft_vocab)
        if isinstance(head, Eagle3Head):
            self.kind = "eagle3"
            self.feature_layers = _read_layers(head.config, target.config.num_hidden_layers)
        self._output_layer: Callable[[Tensor], Tensor] = target.logits
        if head.lm_head is not None:
            self._output_layer = head.lm_head
        elif self.vocab_map is not None:
            self._output_layer = target.cut_head(self.vocab_map)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        target: Target,
        *,
        draft_vocab: str | Path | None = None,
        revision: str | None = None,
    ) -> "EagleDrafter":
        """Loads a bundled head ("mini"), a folder or a Hugging Face id, official files as is.

        An EAGLE-3 head is told by its weights: nothing in `config.json` says what a head is.

        Args:
            name: what to load.
            target: whose features it reads.
            draft_vocab: a JSON file with the list of target ids that an EAGLE-1/2 head shall draft
                from; None: as the head was trained.
            revision: of a Hugging Face repository.
        """
        raw, weights = read_head(find_head(name, revision))
        embedding = weights.pop("embed_tokens.weight", None)
        head = load_head(name, raw, weights, target.vocab_size if embedding is None else None)
        vocab = None if draft_vocab is None else read_draft_vocab(Path(draft_vocab))
        return cls(head, target, embedding, draft_vocab=vocab, name=name)

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
        return self._output_layer(self.head.normed(states))

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

    def states_before(self, features: Tensor | None) -> Tensor:
        return self._drafter.states(_needed(features))

    def run(
        self,
        token_ids: Tensor,
        states: Tensor | None,
        positions: Tensor,
        mask: Tensor | None,
        cache: KVCache,
    ) -> Tensor:
        cache.reserve(token_ids.shape[1])
        embeddings = self._drafter.embed(token_ids)
        outputs = self._drafter.head(embeddings, states, positions, mask, cache)
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


def load_head(
    name: str, raw: dict[str, Any], weights: Weights, vocab_size: int | None = None
) -> EagleHead | Eagle3Head:
    """The network of a checkpoint; weights tell an EAGLE-3 head, whose config says nothing.

    Args:
        name: for messages.
        raw: its `config.json`.
        weights: with official names, without the embedding.
        vocab_size: the target's, for a head that has no tensor of that size and whose config was
            padded otherwise; None: as its config says.
    """
    first = "layers.0."
    if f"{first}hidden_norm.weight" in weights:  # as speculators and SGLang name the layer
        weights = {key.replace(first, EAGLE3_LAYER, 1): own for key, own in weights.items()}
    is_eagle3 = any(key.startswith(EAGLE3_LAYER) for key in weights)
    stated = raw.get("vocab_size")
    is_sized = {"lm_head.weight", "t2d"} & weights.keys()
    if vocab_size and not is_sized and type(stated) is int and is_padded(stated, vocab_size):
        raw = raw | {"vocab_size": vocab_size}
    head: EagleHead | Eagle3Head
    if is_eagle3:
        head = Eagle3Head(Eagle3HeadConfig.from_json(raw, weights))
    else:
        head = EagleHead(EagleHeadConfig.from_json(raw, weights))
    fill(head, head.take_vocab(weights, name), name, "EAGLE-3" if is_eagle3 else "EAGLE-1/2")
    return head


def read_draft_vocab(file: Path) -> Tensor:
    """The target ids [W] of a JSON file, ascending.

    Raises:
        ValueError: the file holds no list of whole numbers.
        OSError: the file cannot be read.
    """
    try:
        ids = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} must be JSON, got: {error}") from error
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise ValueError(f"{file} must hold a list of token ids, got {str(ids)[:60]}")
    return torch.tensor(sorted(ids))


def _draft_vocab(head: EagleHead | Eagle3Head, chosen: Tensor | None) -> Tensor | None:
    if chosen is None:
        return head.vocab_map
    if head.lm_head is not None:
        raise ValueError(
            "draft_vocab must be None for a head with an output layer of its own, such as an "
            "EAGLE-3 head, which is trained for its own vocabulary"
        )
    check_vocab(chosen, len(chosen), head.config.vocab_size)
    own = head.vocab_map
    if own is not None and not set(chosen.tolist()) <= set(own.tolist()):
        raise ValueError("draft_vocab must lie within the vocabulary that the head was trained for")
    return chosen.to(head.fc.weight.device)


def _read_layers(config: Eagle3HeadConfig, num_target_layers: int) -> tuple[int, ...]:
    layers = config.aux_layers or feature_layers(num_target_layers)
    if not all(0 <= layer < num_target_layers for layer in layers):
        raise ValueError(
            f"the layers that a draft head reads must be inputs of the target's "
            f"{num_target_layers} layers, got {list(layers)}"
        )
    return layers


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
