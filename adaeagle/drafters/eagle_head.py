"""The EAGLE-1/2 draft head: one decoder layer that predicts the target's next feature.

Source: EAGLE, Li et al. 2024, https://arxiv.org/abs/2401.15077; EAGLE-2 uses the same weights,
https://arxiv.org/abs/2406.16858. Parameter names are those of the official checkpoints.

    x = fc([embedding(t_{i+1}); f_i])        the embedding first
    a = x + attention(x)                     layer 0 has no input norm
    f^_{i+1} = a + mlp(norm(a))              no final norm: it stands for the target's own output

The pair (f_i, t_{i+1}) sits at position i, the position of the feature.
Shapes: B texts, T pairs, S keys, H hidden size, K key-value heads, D head dimension.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from adaeagle.kv_cache import KVCache, LayerShape


@dataclass(frozen=True, slots=True)
class EagleHeadConfig:
    """A head's dimensions, read from the raw `config.json`: absent keys have a meaning too."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    num_hidden_layers: int
    vocab_size: int
    rms_norm_eps: float
    hidden_act: str
    rope_theta: float
    fc_bias: bool
    qkv_bias: bool

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "EagleHeadConfig":
        """Reads a head's `config.json`.

        As the official code does: without `bias` the input layer has one, without `rope_theta` the
        base is 10000 whatever the target's, `head_dim` is ignored.
        """
        missing = [
            key
            for key in ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
            if key not in raw
        ]
        if missing:
            raise ValueError(f"a head's config.json must have {missing}, got keys {sorted(raw)}")
        scaling = raw.get("rope_scaling")
        if scaling is not None:
            raise NotImplementedError(f"rope_scaling of a draft head must be null, got {scaling}")
        return cls(
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_attention_heads=raw["num_attention_heads"],
            num_key_value_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
            num_hidden_layers=raw.get("num_hidden_layers", 1),
            vocab_size=raw["vocab_size"],
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            hidden_act=raw.get("hidden_act", "silu"),
            rope_theta=float(raw.get("rope_theta", 10000.0)),
            fc_bias=raw.get("bias", True),
            qkv_bias=raw.get("qkv_bias", False),
        )

    def to_json(self) -> dict[str, Any]:
        """The `config.json` that `from_json` reads back."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "vocab_size": self.vocab_size,
            "rms_norm_eps": self.rms_norm_eps,
            "hidden_act": self.hidden_act,
            "rope_theta": self.rope_theta,
            "bias": self.fc_bias,
            "qkv_bias": self.qkv_bias,
        }

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Llama's half-rotation; states [B, T, heads, D], cos and sin [B, T, 1, D]."""
    left, right = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-right, left), dim=-1) * sin


class _Attention(nn.Module):
    def __init__(self, config: EagleHeadConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        hidden = config.hidden_size
        self.is_grouped = config.num_key_value_heads != config.num_attention_heads
        self.q_proj = nn.Linear(hidden, hidden, bias=config.qkv_bias)
        self.k_proj = nn.Linear(hidden, kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(hidden, kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        heads = (*x.shape[:2], -1, self.head_dim)
        query = _rotate(self.q_proj(x).view(heads), cos, sin).transpose(1, 2)
        key = _rotate(self.k_proj(x).view(heads), cos, sin).transpose(1, 2)
        value = self.v_proj(x).view(heads).transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None and x.shape[1] > 1,
            enable_gqa=self.is_grouped,
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(x.shape))
        return out


class _MLP(nn.Module):
    def __init__(self, config: EagleHeadConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(  # type: ignore[no-any-return]
            self.activation(self.gate_proj(x)) * self.up_proj(x)
        )


class _Layer(nn.Module):
    def __init__(self, config: EagleHeadConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = _Attention(config, layer)
        self.mlp = _MLP(config)
        eps = config.rms_norm_eps
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=eps)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=eps) if layer > 0 else None

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        normed = x if self.input_layernorm is None else self.input_layernorm(x)
        attended: Tensor = x + self.self_attn(normed, cos, sin, mask, cache)
        out: Tensor = attended + self.mlp(self.post_attention_layernorm(attended))
        return out


class EagleHead(nn.Module):
    """The network of an EAGLE-1/2 head; embedding and output head are the target's."""

    def __init__(self, config: EagleHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=config.fc_bias)
        self.layers = nn.ModuleList(
            _Layer(config, layer) for layer in range(config.num_hidden_layers)
        )
        powers = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        self.inverse_frequencies: Tensor
        self.register_buffer("inverse_frequencies", config.rope_theta**-powers, persistent=False)

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
            [B, T, H]; `target.logits` of it are the draft law of t_{i+2}.
        """
        cos, sin = self._rotation(position_ids, features)
        x: Tensor = self.fc(torch.cat((embeddings, features), dim=-1))
        for layer in self.layers:
            x = layer(x, cos, sin, mask, cache)
        return x

    def _rotation(self, position_ids: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids.unsqueeze(-1).float() * self.inverse_frequencies
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(2)  # [B, T, 1, D]
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)

    def layer_shapes(self) -> list[LayerShape]:
        """What a cache for this head holds."""
        weight = self.fc.weight
        config = self.config
        dim = config.head_dim
        shape = LayerShape(weight.device, weight.dtype, config.num_key_value_heads, dim, dim)
        return [shape] * config.num_hidden_layers
