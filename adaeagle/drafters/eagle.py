"""Drafting with an EAGLE head on the target's features.

Source: EAGLE (Li et al. 2024, https://arxiv.org/abs/2401.15077), conventions of the official code.
Differs from it: the embedding is the target's where the checkpoint has none, whatever its files are
called; head and target are compared before anything runs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaeagle.bundled import bundled_folder
from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig
from adaeagle.drafters.node_mask import NodeMask
from adaeagle.kv_cache import KVCache, additive, causal_mask
from adaeagle.target import LAST, Target


class EagleDrafter:
    """An EAGLE-1/2 head with the target whose features it reads.

    Args:
        head: the network, on the target's device and in its dtype.
        target: gives the embedding and the output head.
        embedding: [V, H] the head's own input embedding; None: the target's.
        name: what results call it.
    """

    feature_layers: tuple[int, ...] = (LAST,)
    vocab_map: Tensor | None = None

    def __init__(
        self,
        head: EagleHead,
        target: Target,
        embedding: Tensor | None = None,
        *,
        name: str = "eagle",
    ) -> None:
        _check_fit(head.config, target)
        self.target = target
        self.head = head.to(target.device, target.dtype).eval()
        self.embedding = None if embedding is None else embedding.to(target.device, target.dtype)
        self.name = name

    @classmethod
    def from_pretrained(
        cls, name: str, target: Target, *, revision: str | None = None
    ) -> "EagleDrafter":
        """Loads a bundled head ("mini"), a folder or a Hugging Face id, official files as is."""
        folder = _resolve(name, revision)
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = _load_weights(folder)
        if any(key.startswith("midlayer.") or key == "d2t" for key in weights):
            raise NotImplementedError(f"{name} is an EAGLE-3 head; EAGLE-1 and EAGLE-2 are read")
        head = EagleHead(EagleHeadConfig.from_json(raw))
        embedding = weights.pop("embed_tokens.weight", None)
        _check_fit(head.config, target)
        missing, unexpected = head.load_state_dict(weights, strict=False)
        if missing or unexpected:
            raise ValueError(
                f"{name} must hold the weights of an EAGLE-1/2 head: missing {sorted(missing)}, "
                f"not known {sorted(unexpected)}"
            )
        return cls(head, target, embedding, name=name)

    def save_pretrained(self, folder: Path) -> None:
        """Writes the head in the official layout, without the embedding, which is the target's."""
        folder.mkdir(parents=True, exist_ok=True)
        config = json.dumps(self.head.config.to_json(), indent=2)
        (folder / "config.json").write_text(config + "\n", encoding="utf-8")
        save_file(self.head.state_dict(), folder / "model.safetensors")

    def embed(self, token_ids: Tensor) -> Tensor:
        """[...] int64 → [..., H]."""
        if self.embedding is None:
            return self.target.embed(token_ids)
        return nn.functional.embedding(token_ids, self.embedding)

    def begin(self, prompt_ids: Sequence[int], capacity: int) -> "EagleSession":
        return EagleSession(self, capacity)


class EagleSession:
    """One text's head cache: pairs of true features, and the nodes of the current round.

    Predicted features are thrown away after each round and the cache goes on from the target's own.
    """

    def __init__(self, drafter: EagleDrafter, capacity: int) -> None:
        self._drafter = drafter
        self._cache = KVCache(drafter.head.layer_shapes(), capacity)
        self._num_pairs = 0  # pairs (f_i, t_{i+1}) of the committed text
        self._outputs: list[
            Tensor
        ] = []  # predicted features, [P, 1, D] of the root, then [P, W, D]
        self._nodes = NodeMask()

    def catch_up(self, token_ids: Tensor, features: Tensor | None) -> Tensor:
        if features is None:
            raise ValueError("an EAGLE head needs the target's features, got none")
        self._cache.truncate(self._num_pairs)
        self._nodes.reset()
        start, num_new = self._num_pairs, token_ids.shape[1]
        self._num_pairs += num_new
        mask = None
        if start > 0 and num_new > 1:
            allowed = causal_mask(num_new, self._num_pairs, token_ids.device)
            mask = additive(allowed, features.dtype)[None, None]
        positions = torch.arange(start, self._num_pairs, device=token_ids.device).unsqueeze(0)
        outputs = self._forward(token_ids, features, positions, mask)
        self._outputs = [outputs[:, -1:]]
        return self._drafter.target.logits(self._outputs[0])

    def extend(self, token_ids: Tensor, origins: Tensor) -> Tensor:
        drafted = torch.cat(self._outputs, dim=1)  # [P, 1 + E, D]
        index = origins.unsqueeze(2).expand(-1, -1, drafted.shape[2])
        features = drafted.gather(1, index)
        # The pair of a node at depth d sits at position num_pairs + d - 1; one level a call.
        positions = torch.full_like(token_ids, self._num_pairs + len(self._outputs) - 1)
        allowed = self._nodes.extend(origins, self._num_pairs)
        mask = None if allowed is None else additive(allowed, features.dtype)
        outputs = self._forward(token_ids, features, positions, mask)
        self._outputs.append(outputs)
        return self._drafter.target.logits(outputs)

    def _forward(
        self, token_ids: Tensor, features: Tensor, positions: Tensor, mask: Tensor | None
    ) -> Tensor:
        self._cache.reserve(token_ids.shape[1])
        embeddings = self._drafter.embed(token_ids)
        outputs = self._drafter.head(embeddings, features, positions, mask, self._cache)
        assert isinstance(outputs, Tensor)
        return outputs


def _check_fit(config: EagleHeadConfig, target: Target) -> None:
    for what, found, expected in (
        ("hidden_size", config.hidden_size, target.hidden_size),
        ("vocab_size", config.vocab_size, target.vocab_size),
    ):
        if found != expected:
            raise ValueError(f"the head's {what} must be {target.name}'s {expected}, got {found}")


def _resolve(name: str, revision: str | None) -> Path:
    bundled = bundled_folder(name, "eagle_head")
    if bundled is not None:
        return bundled
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"a draft head must be a folder, a bundled name or a Hugging Face id, got {name!r}"
        )
    patterns = ["config.json", "model.safetensors", "pytorch_model.bin"]
    return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


def _load_weights(folder: Path) -> dict[str, Any]:
    if (folder / "model.safetensors").is_file():
        return load_file(folder / "model.safetensors")
    if (folder / "pytorch_model.bin").is_file():
        return torch.load(  # type: ignore[no-any-return]
            folder / "pytorch_model.bin", map_location="cpu", weights_only=True
        )
    raise FileNotFoundError(f"{folder} must hold model.safetensors or pytorch_model.bin")
