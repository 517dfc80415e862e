"""What the EAGLE heads are built from: rotary positions, attention, gated MLP, a decoder layer.

Parameter names are those of the official checkpoints.
Shapes: B texts, T pairs, S keys, H hidden size, D head dimension.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from adaeagle.drafters.draft_vocab import DraftVocab
from adaeagle.drafters.head_config import HeadConfig, frequencies
from adaeagle.models.kernels import Mode, Product
from adaeagle.models.kv_cache import KVCache, LayerShape

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each [B, T, 1, D]."""


class Rotary:
    """Llama's rotary positions, scaled where a head's config says so.

    The frequencies are float32 whatever the head's dtype, so they are no buffer: a cast of the head
    would round them, and far positions with them.
    """

    def __init__(self, config: HeadConfig) -> None:
        self._frequencies, self._scale = frequencies(config)

    def __call__(self, position_ids: Tensor, dtype: torch.dtype) -> Rotation:
        """Angles of positions [B, T] int64."""
        if self._frequencies.device != position_ids.device:
            self._frequencies = self._frequencies.to(position_ids.device)
        angles = position_ids.unsqueeze(-1).float() * self._frequencies
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(2)  # [B, T, 1, D]
        cos, sin = angles.cos() * self._scale, angles.sin() * self._scale
        return cos.to(dtype), sin.to(dtype)


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
        layer: its place in a cache.
    """

    def __init__(self, config: HeadConfig, input_size: int, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
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


class HeadLayer(nn.Module):
    """A decoder layer without what comes before its attention, in which the heads differ.

    Args:
        config: sizes of the head.
        input_size: width of what attention reads.
        layer: its place in a cache.
    """

    def __init__(self, config: HeadConfig, input_size: int, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, input_size, layer)
        self.mlp = GatedMLP(config)
        self.post_attention_layernorm = norm(config)

    def finish(self, states: Tensor, attended: Tensor) -> Tensor:
        """Both residuals and the MLP: [B, T, H]."""
        total = states + attended
        out: Tensor = total + self.mlp(self.post_attention_layernorm(total))
        return out


def norm(config: HeadConfig, size: int | None = None) -> nn.RMSNorm:
    """A norm of a head, of its hidden size or another."""
    return nn.RMSNorm(size or config.hidden_size, eps=config.rms_norm_eps)


class Head(DraftVocab):
    """What the networks of EAGLE-1/2 and EAGLE-3 have in common.

    Args:
        config: sizes of the head.
        draft_vocab_size: tokens it drafts from.
        num_layers: decoder layers.
    """

    lm_head: nn.Linear | None
    """Its own output layer, over the draft vocabulary; None: the target's serves."""

    def __init__(self, config: HeadConfig, draft_vocab_size: int, num_layers: int) -> None:
        super().__init__(draft_vocab_size, config.vocab_size)
        self.num_layers = num_layers
        self.rotary = Rotary(config)
        heads, dim = config.num_key_value_heads, config.head_dim
        self._cached = heads, dim, dim

    def make_lm_head(self, config: HeadConfig) -> nn.Linear | None:
        """Its own output layer, where the config says that it has one."""
        if not config.has_lm_head:
            return None
        return nn.Linear(config.hidden_size, self.size, bias=False)

    def layer_shapes(self) -> list[LayerShape]:
        """What a cache for this head holds."""
        weight = self.get_parameter("fc.weight")
        return [LayerShape(weight.device, weight.dtype, *self._cached)] * self.num_layers

    def normed(self, states: Tensor) -> Tensor:
        """What the output layer reads of the head's output: [..., H]."""
        return states
