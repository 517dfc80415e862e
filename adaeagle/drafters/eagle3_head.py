"""The EAGLE-3 draft head: one decoder layer over features of three target layers.

Source: EAGLE-3, Li et al. 2025, https://arxiv.org/abs/2503.01840, conventions of the official code.
Parameter names are those of the official checkpoints.

    h = fc([low_i; mid_i; high_i])                    target features only, never a bias
    z = [norm_in(embedding(t_{i+1})); norm_hid(h)]    the embedding first, twice as wide as h
    a = h + attention(z)                              the residual is h before its norm
    g = a + mlp(norm_post(a))                         the next step's h, where fc is not applied
    logits of t_{i+2} = lm_head(norm(g))              over a draft vocabulary of its own

The pair (features of i, t_{i+1}) sits at position i, as in EAGLE-1/2.
Shapes: B texts, T pairs, S keys, H hidden size, W draft vocabulary, V target vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adaeagle.drafters.draft_vocab import DraftVocab
from adaeagle.drafters.head_layers import (
    Attention,
    GatedMLP,
    HeadConfig,
    Rotary,
    Rotation,
    common_json,
    read_common,
)
from adaeagle.models.kv_cache import KVCache, LayerShape

MIN_TARGET_LAYERS = 7
"""With fewer the three feature layers would not be three."""


def feature_layers(num_target_layers: int) -> tuple[int, int, int]:
    """Which hidden states of a target the head reads: a low, a middle and a high one.

    Indices are those of `hidden_states` in `transformers`, 0 being the embeddings.
    """
    if num_target_layers < MIN_TARGET_LAYERS:
        raise ValueError(
            f"the target of an EAGLE-3 head must have num_hidden_layers >= {MIN_TARGET_LAYERS}, "
            f"got {num_target_layers}"
        )
    return 2, num_target_layers // 2, num_target_layers - 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Eagle3HeadConfig(HeadConfig):
    """An EAGLE-3 head's dimensions."""

    head_dim: int
    draft_vocab_size: int
    target_hidden_size: int

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Eagle3HeadConfig":
        """Reads a head's `config.json`; `num_hidden_layers` is ignored, there is one layer."""
        common = read_common(raw)
        if "draft_vocab_size" not in raw:
            raise ValueError(
                "an EAGLE-3 head's config.json must have 'draft_vocab_size', "
                f"got keys {sorted(raw)}"
            )
        hidden = common["hidden_size"]
        return cls(
            **common,
            head_dim=raw.get("head_dim") or hidden // common["num_attention_heads"],
            draft_vocab_size=raw["draft_vocab_size"],
            target_hidden_size=raw.get("target_hidden_size") or hidden,
        )

    def to_json(self) -> dict[str, Any]:
        """The `config.json` that `from_json` reads back."""
        own = {
            "num_hidden_layers": 1,
            "head_dim": self.head_dim,
            "draft_vocab_size": self.draft_vocab_size,
        }
        # Where the key is present, the official code expects the embedding in the file.
        if self.target_hidden_size != self.hidden_size:
            own["target_hidden_size"] = self.target_hidden_size
        return common_json(self) | own


class _Layer(nn.Module):
    def __init__(self, config: Eagle3HeadConfig) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, 2 * hidden, config.head_dim, layer=0)
        self.mlp = GatedMLP(config)
        self.hidden_norm = nn.RMSNorm(hidden, eps=eps)
        self.input_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps)

    def inputs(self, embeddings: Tensor, states: Tensor) -> Tensor:
        """What attention reads, [B, T, 2H]."""
        return torch.cat((self.input_layernorm(embeddings), self.hidden_norm(states)), dim=-1)

    def finish(self, states: Tensor, attended: Tensor) -> Tensor:
        """Both residuals and the MLP: [B, T, H]."""
        total = states + attended
        out: Tensor = total + self.mlp(self.post_attention_layernorm(total))
        return out


class Eagle3Head(DraftVocab):
    """The network of an EAGLE-3 head; the embedding is the target's, or beside it in the file."""

    def __init__(self, config: Eagle3HeadConfig) -> None:
        super().__init__(config.draft_vocab_size, config.vocab_size)
        self.config = config
        hidden = config.hidden_size
        self.fc = nn.Linear(3 * config.target_hidden_size, hidden, bias=False)
        self.midlayer = _Layer(config)
        self.norm = nn.RMSNorm(hidden, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(hidden, config.draft_vocab_size, bias=False)
        self.rotary = Rotary(config.head_dim, config.rope_theta)

    def fuse(self, features: Tensor) -> Tensor:
        """The first states, of the target's three features side by side: [..., 3D] → [..., H]."""
        states: Tensor = self.fc(features)
        return states

    def forward(
        self,
        embeddings: Tensor,
        states: Tensor,
        position_ids: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """The next states.

        Args:
            embeddings: [B, T, H] of the tokens t_{i+1}.
            states: [B, T, H] of `fuse` or, inside a draft, of this method.
            position_ids: [B, T] int64, i.
            mask: additive [B, 1, T, S]; None: causal within T, everything before.
            cache: where keys and values are kept; None: only this call's.
        """
        layer = self.midlayer
        rotation: Rotation = self.rotary(position_ids, states.dtype)
        attended = layer.self_attn(layer.inputs(embeddings, states), rotation, mask, cache)
        return layer.finish(states, attended)

    def logits(self, states: Tensor) -> Tensor:
        """The draft distribution of t_{i+2} over the draft vocabulary: [..., H] → [..., W]."""
        logits: Tensor = self.lm_head(self.norm(states))
        return logits

    def layer_shapes(self) -> list[LayerShape]:
        """What a cache for this head holds."""
        config, weight = self.config, self.fc.weight
        dim = config.head_dim
        return [LayerShape(weight.device, weight.dtype, config.num_key_value_heads, dim, dim)]
