"""The EAGLE-3 draft head: one decoder layer over features of three target layers.

Source: EAGLE-3, Li et al. 2025, https://arxiv.org/abs/2503.01840, conventions of the official code.
Parameter names are those of the official checkpoints.

    h = fc([low_i; mid_i; high_i])                    target features only, never a bias
    z = [norm_in(embedding(t_{i+1})); norm_hid(h)]    the embedding first, twice as wide as h
    a = h + attention(z)                              the residual is h before its norm
    g = a + mlp(norm_post(a))                         the next step's h, where fc is not applied
    logits of t_{i+2} = lm_head(norm(g))              over a draft vocabulary of its own

The pair (features of i, t_{i+1}) sits at position i, as in EAGLE-1/2. Later heads differ in norms,
each where their config or weights say so:

    fc_norm                 a norm of each target feature (EAGLE-3.1, https://arxiv.org/abs/2605.09992)
    norm_before_fc          one norm of all of them side by side (heads for gpt-oss)
    norm_before_residual    the residual is h after its norm
    norm_output             the next step's h is norm(g), and lm_head reads it as it is (EAGLE-3.1)

Shapes: B texts, T pairs, S keys, H hidden size, W draft vocabulary, V target vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adaeagle.drafters.head_config import HeadConfig, aux_layers, common_json, flat, read_common
from adaeagle.drafters.head_layers import Head, HeadLayer, Rotation, norm
from adaeagle.models.kv_cache import KVCache

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
    """An EAGLE-3 head's dimensions, and which norms it has."""

    draft_vocab_size: int
    target_hidden_size: int
    aux_layers: tuple[int, ...] = ()
    """Which hidden states of the target it reads; (): `feature_layers`."""
    num_features: int = 3
    has_lm_head: bool = True
    fc_norm: bool = False
    norm_before_fc: bool = False
    norm_before_residual: bool = False
    norm_output: bool = False

    @classmethod
    def from_json(
        cls, raw: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
    ) -> "Eagle3HeadConfig":
        """Reads a head's `config.json`, and what its weights tell better.

        `num_hidden_layers` is ignored: there is one layer.
        """
        raw, weights = flat(raw), weights or {}
        common = read_common(raw, weights, "midlayer")
        if not weights:
            common["has_lm_head"] = True
        sizes = [len(weights[key]) for key in ("lm_head.weight", "d2t") if key in weights]
        layers = aux_layers(raw)
        num_features = raw.get("num_aux_hidden_states", len(layers) or 3)
        if num_features != (len(layers) or 3):
            raise ValueError(
                "eagle_aux_hidden_state_layer_ids of a draft head must be the layers that it "
                f"reads, {num_features} of them, got {list(layers)}"
            )
        return cls(
            **common,
            draft_vocab_size=raw.get("draft_vocab_size", [*sizes, raw["vocab_size"]][0]),
            target_hidden_size=raw.get("target_hidden_size", raw["hidden_size"]),
            aux_layers=layers,
            num_features=num_features,
            fc_norm=raw.get("fc_norm", "fc_norm.0.weight" in weights),
            norm_before_fc=raw.get("norm_before_fc", "input_norm.weight" in weights),
            norm_before_residual=raw.get("norm_before_residual", False),
            norm_output=raw.get("norm_output", False),
        )

    def to_json(self) -> dict[str, Any]:
        """The `config.json` that `from_json` reads back."""
        own: dict[str, Any] = {
            "num_hidden_layers": 1,
            "head_dim": self.head_dim,
            "draft_vocab_size": self.draft_vocab_size,
        }
        # Where the key is present, the official code expects the embedding in the file.
        if self.target_hidden_size != self.hidden_size:
            own["target_hidden_size"] = self.target_hidden_size
        if self.aux_layers:
            own["eagle_aux_hidden_state_layer_ids"] = list(self.aux_layers)
        flags = "fc_norm", "norm_before_fc", "norm_before_residual", "norm_output"
        own |= {flag: True for flag in flags if getattr(self, flag)}
        return common_json(self) | own


class _Layer(HeadLayer):
    def __init__(self, config: Eagle3HeadConfig) -> None:
        super().__init__(config, 2 * config.hidden_size, layer=0)
        self.hidden_norm = norm(config)
        self.input_layernorm = norm(config)
        self._norm_before_residual = config.norm_before_residual

    def inputs(self, embeddings: Tensor, states: Tensor) -> Tensor:
        """What attention reads, [B, T, 2H]."""
        return torch.cat((self.input_layernorm(embeddings), self.hidden_norm(states)), dim=-1)

    def finish(self, states: Tensor, attended: Tensor) -> Tensor:
        if self._norm_before_residual:
            states = self.hidden_norm(states)
        return super().finish(states, attended)


class Eagle3Head(Head):
    """The network of an EAGLE-3 head; the embedding is the target's, or beside it in the file.

    Args:
        config: its dimensions.
    """

    def __init__(self, config: Eagle3HeadConfig) -> None:
        super().__init__(config, config.draft_vocab_size, num_layers=1)
        self.config = config
        feature, count = config.target_hidden_size, config.num_features
        fc_norms = [norm(config, feature) for _ in range(count)]
        self.fc_norm = nn.ModuleList(fc_norms) if config.fc_norm else None
        self.input_norm = norm(config, count * feature) if config.norm_before_fc else None
        self.fc = nn.Linear(count * feature, config.hidden_size, bias=False)
        self.midlayer = _Layer(config)
        self.norm = norm(config)
        self.lm_head = self.make_lm_head(config)

    def fuse(self, features: Tensor) -> Tensor:
        """The first states, of the target's features side by side: [..., C*D] → [..., H]."""
        if self.fc_norm is not None:
            parts = features.chunk(len(self.fc_norm), dim=-1)
            pairs = zip(self.fc_norm, parts, strict=True)
            features = torch.cat([own(part) for own, part in pairs], dim=-1)
        if self.input_norm is not None:
            features = self.input_norm(features)
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
        out = layer.finish(states, attended)
        return self.norm(out) if self.config.norm_output else out

    def normed(self, states: Tensor) -> Tensor:
        return states if self.config.norm_output else self.norm(states)

    def logits(self, states: Tensor) -> Tensor:
        """The draft distribution of t_{i+2} over the draft vocabulary: [..., H] → [..., W].

        Only of a head with an output layer of its own.
        """
        assert self.lm_head is not None
        logits: Tensor = self.lm_head(self.normed(states))
        return logits
