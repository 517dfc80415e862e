"""The EAGLE-1/2 draft head: one decoder layer that predicts the target's next feature.

Source: EAGLE, Li et al. 2024, https://arxiv.org/abs/2401.15077; EAGLE-2 uses the same weights,
https://arxiv.org/abs/2406.16858. Parameter names are those of the official checkpoints.

    x = fc([embedding(t_{i+1}); f_i])        the embedding first
    a = x + attention(x)                     layer 0 has no input norm
    f^_{i+1} = a + mlp(norm(a))              no final norm: it stands for the target's own output

The pair (f_i, t_{i+1}) sits at position i, the position of the feature.
Shapes: B texts, T pairs, S keys, H hidden size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adaeagle.drafters.head_config import HeadConfig, common_json, flat, read_common
from adaeagle.drafters.head_layers import Head, HeadLayer, Rotation, norm
from adaeagle.models.kv_cache import KVCache


@dataclass(frozen=True, slots=True, kw_only=True)
class EagleHeadConfig(HeadConfig):
    """An EAGLE-1/2 head's dimensions."""

    num_hidden_layers: int
    fc_bias: bool
    draft_vocab_size: int | None = None
    """Tokens drafted from; None: all. The official heads have none of their own."""

    @classmethod
    def from_json(
        cls, raw: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
    ) -> "EagleHeadConfig":
        """Reads a head's `config.json`, and what its weights tell better.

        As officially, without `bias` the input layer has one.
        """
        raw, weights = flat(raw), weights or {}
        layers = {key.split(".")[1] for key in weights if key.startswith("layers.")}
        return cls(
            **read_common(raw, weights, "layers.0"),
            num_hidden_layers=len(layers) or raw.get("num_hidden_layers", 1),
            fc_bias="fc.bias" in weights if weights else raw.get("bias", True),
            draft_vocab_size=raw.get("draft_vocab_size"),
        )

    def to_json(self) -> dict[str, Any]:
        """The `config.json` that `from_json` reads back."""
        own = {"num_hidden_layers": self.num_hidden_layers, "bias": self.fc_bias}
        if self.draft_vocab_size is not None:
            own["draft_vocab_size"] = self.draft_vocab_size
        return common_json(self) | own


class _Layer(HeadLayer):
    def __init__(self, config: EagleHeadConfig, layer: int) -> None:
        super().__init__(config, config.hidden_size, layer)
        self.input_layernorm = norm(config) if layer > 0 else None

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        return self.finish(x, self.self_attn(self.inputs(x), rotation, mask, cache))

    def inputs(self, x: Tensor) -> Tensor:
        """What attention reads, [B, T, H]."""
        return x if self.input_layernorm is None else self.input_layernorm(x)


class EagleHead(Head):
    """The network of an EAGLE-1/2 head; the embedding is the target's, and mostly the output layer.

    Args:
        config: its dimensions.
    """

    def __init__(self, config: EagleHeadConfig) -> None:
        size = config.draft_vocab_size
        num_layers = config.num_hidden_layers
        super().__init__(config, config.vocab_size if size is None else size, num_layers)
        self.config = config
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=config.fc_bias)
        self.layers = nn.ModuleList(_Layer(config, layer) for layer in range(num_layers))
        self.lm_head = self.make_lm_head(config)

    def forward(
        self,
        embeddings: Tensor,
        features: Tensor,
        position_ids: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Predicted next features.

        Args:
            embeddings: [B, T, H] of the tokens t_{i+1}.
            features: [B, T, H] f_i, the target's or, inside a draft, the head's own.
            position_ids: [B, T] int64, i.
            mask: additive [B, 1, T, S]; None: causal within T, everything before.
            cache: where keys and values are kept; None: only this call's.

        Returns:
            [B, T, H]; `target.logits` of it are the draft distribution of t_{i+2}, those of the
            draft vocabulary alone where the head has one.
        """
        rotation = self.rotary(position_ids, features.dtype)
        x: Tensor = self.fc(torch.cat((embeddings, features), dim=-1))
        for layer in self.layers:
            x = layer(x, rotation, mask, cache)
        return x
