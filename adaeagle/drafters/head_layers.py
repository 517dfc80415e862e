"""What the EAGLE heads are built from: dimensions, rotary positions, attention, gated MLP.

Parameter names are those of the official checkpoints.
Shapes: B texts, T pairs, S keys, D head dimension.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from adaeagle.models.kernels import Mode, Product
from adaeagle.models.kv_cache import KVCache

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each [B, T, 1, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """Dimensions that every head has."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    rms_norm_eps: float
    hidden_act: str
    rope_theta: float
    qkv_bias: bool


def read_common(raw: dict[str, Any]) -> dict[str, Any]:
    """The fields of `HeadConfig` from the raw `config.json`: absent keys have a meaning too."""
    missing = [
        key
        for key in ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
        if key not in raw
    ]
    if missing:
        raise ValueError(f"a head's config.json must have {missing}, got keys {sorted(raw)}")
    return {
        "hidden_size": raw["hidden_size"],
        "intermediate_size": raw["intermediate_size"],
        "num_attention_heads": raw["num_attention_heads"],
        "num_key_value_heads": raw.get("num_key_value_heads") or raw["num_attention_heads"],
        "vocab_size": raw["vocab_size"],
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-6),
        "hidden_act": raw.get("hidden_act", "silu"),
        "rope_theta": _rope_theta(raw),
        "qkv_bias": raw.get("qkv_bias", False),
    }


def _rope_theta(raw: dict[str, Any]) -> float:
    """The rotary base: 10000 where the file has none, whatever the target's, as officially."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise NotImplementedError(f"the rope type of a draft head must be 'default', got {kind!r}")
    return float(raw.get("rope_theta", rope.get("rope_theta", 10000.0)))


def common_json(config: HeadConfig) -> dict[str, Any]:
    """What `read_common` reads back, as the official files say it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.rms_norm_eps,
        "hidden_act": config.hidden_act,
        "rope_theta": config.rope_theta,
        "qkv_bias": config.qkv_bias,
    }


class Rotary:
    """Llama's rotary positions.

    The frequencies are float32 whatever the head's dtype, so they are no buffer: a cast of the head
    would round them, and far positions with them.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        powers = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self._frequencies = theta**-powers

    def __call__(self, position_ids: Tensor, dtype: torch.dtype) -> Rotation:
        """Angles of positions [B, T] int64."""
        if self._frequencies.device != position_ids.device:
            self._frequencies = self._frequencies.to(position_ids.device)
        angles = position_ids.unsqueeze(-1).float() * self._frequencies
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(2)  # [B, T, 1, D]
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(states: Tensor, rotation: Rotation) -> Tensor:
    """Llama's half-rotation of states [B, T, heads, D]."""
    cos, sin = rotation
    left, right = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-right, left), dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention over one text and its drafted nodes.

    Args:
        config: sizes of the head.
        input_size: width of what queries, keys and values are made from.
        head_dim: of each attention head.
        layer: its place in a cache.
    """

    def __init__(self, config: HeadConfig, input_size: int, head_dim: int, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = head_dim
        size = config.num_attention_heads * head_dim
        kv_size = config.num_key_value_heads * head_dim
        self.is_grouped = config.num_key_value_heads != config.num_attention_heads
        self.q_proj = nn.Linear(input_size, size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(input_size, kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(input_size, kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(size, config.hidden_size, bias=False)
        self._sizes = (config.num_attention_heads, config.num_key_value_heads)
        self._fused: Product | None = None

    def fuse(self, mode: Mode) -> None:
        """Makes one product of three; the parameters become views of what it multiplies by."""
        self._fused = _fused(mode, self.q_proj, self.k_proj, self.v_proj)

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, heads, T, D], of inputs [B, T, input_size]."""
        shape = (*x.shape[:2], -1, self.head_dim)
        if self._fused is not None:
            num_query, num_key = self._sizes
            states = self._fused(x)[0].view(shape)
            turned = _rotate(states[:, :, : num_query + num_key], rotation).transpose(1, 2)
            value = states[:, :, num_query + num_key :].transpose(1, 2)
            return turned[:, :num_query], turned[:, num_query:], value
        query = _rotate(self.q_proj(x).view(shape), rotation).transpose(1, 2)
        key = _rotate(self.k_proj(x).view(shape), rotation).transpose(1, 2)
        return query, key, self.v_proj(x).view(shape).transpose(1, 2)

    def merge(self, mixed: Tensor) -> Tensor:
        """The output of what the heads gathered: [B, heads, T, D] → [B, T, hidden_size]."""
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        query, key, value = self.project(x, rotation)
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
        return self.merge(mixed)


def _fused(mode: Mode, *layers: nn.Linear) -> Product:
    """One product of layers with one input; their weights and biases become views of its own."""
    weight = torch.cat([layer.weight.data for layer in layers])
    bias = None
    if layers[0].bias is not None:
        bias = torch.cat([layer.bias.data for layer in layers])
    row = 0
    for layer in layers:
        rows = slice(row, row + layer.out_features)
        layer.weight.data = weight[rows]
        if bias is not None:
            layer.bias.data = bias[rows]
        row = rows.stop
    product = Product([{"weight": weight, "bias": bias}])
    product.pack(mode)
    return product


class GatedMLP(nn.Module):
    """Llama's feed-forward layer."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACT2FN[config.hidden_act]
        self._fused: Product | None = None

    def fuse(self, mode: Mode) -> None:
        """Makes one product of two, as in `Attention`."""
        self._fused = _fused(mode, self.gate_proj, self.up_proj)

    def forward(self, x: Tensor) -> Tensor:
        if self._fused is not None:
            gate, up = self._fused(x)[0].chunk(2, dim=-1)
            return self.down_proj(self.activation(gate) * up)  # type: ignore[no-any-return]
        return self.down_proj(  # type: ignore[no-any-return]
            self.activation(self.gate_proj(x)) * self.up_proj(x)
        )
