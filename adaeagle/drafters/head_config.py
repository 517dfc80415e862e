"""What the `config.json` of an EAGLE head says, in the dialects of those who publish heads.

Beside the official keys these are read: EAGLE-3.1's norms, the gpt-oss heads' `norm_before_fc`, the
layers that SpecForge, SGLang, vLLM and ModelOpt name, and the nested form of `speculators`. Each
key is applied, told by the weights, without effect, or refused by its name: one that was dropped
could change what is computed, and nothing would show but fewer accepted tokens.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

log = logging.getLogger(__name__)

SIZES = "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"

APPLIED = frozenset(
    {
        *SIZES,
        "rms_norm_eps",
        "hidden_act",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "max_position_embeddings",
        "draft_vocab_size",
        "target_hidden_size",
        "num_aux_hidden_states",
        "eagle_aux_hidden_state_layer_ids",
        "aux_hidden_state_layer_ids",
        "eagle_config",
        "fc_norm",
        "norm_before_fc",
        "norm_before_residual",
        "norm_output",
    }
)

IN_WEIGHTS = frozenset(
    {
        "attention_bias",
        "bias",
        "eagle_fc_bias",
        "head_dim",
        "mlp_bias",
        "num_experts_per_tok",
        "num_hidden_layers",
        "num_key_value_heads",
        "num_local_experts",
        "qkv_bias",
        "tie_word_embeddings",
    }
)

WITHOUT_EFFECT = frozenset(
    {
        *PreTrainedConfig().to_dict(),
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "embed_requires_grad",
        "eos_token_id",
        "has_no_defaults_at_init",
        "initializer_range",
        "keys_to_ignore_at_inference",
        "max_length",
        "max_window_layers",  # of windows, which are refused
        "output_router_logits",
        "pad_token_id",
        "pretraining_tp",
        "router_aux_loss_coef",
        "speculators_config",
        "speculators_model_type",
        "speculators_version",
        "torch_dtype",
        "unk_token_id",
        "use_cache",
    }
)

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (1,),
    "sliding_window": (),
    "use_sliding_window": (False,),
    "use_mrope": (False,),
    "layer_types": (["full_attention"],),
}
"""Keys that are not applied, and the values that ask for nothing."""

EAGLE_CONFIG: dict[str, tuple[Any, ...]] = {
    "use_aux_hidden_state": (True,),
    "use_input_layernorm_in_first_layer": (True,),
    "use_last_layernorm": (True,),
    "use_mtp_layernorm": (False,),
    "parallel_draft_step": (1,),
    "next_layer_regular": (True, False),  # of layers beside the first
}
"""The same of ModelOpt's `eagle_config`, whose values are those of EAGLE-3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """What every EAGLE head has."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    rms_norm_eps: float
    hidden_act: str
    rope_theta: float
    qkv_bias: bool
    head_dim: int = 0
    """Of each attention head; 0: the hidden size shared out."""
    rope_scaling: dict[str, Any] | None = None
    """How rotary positions are stretched, as `transformers` has it; None: not at all."""
    has_lm_head: bool = False
    """Whether it has an output layer of its own, in place of the target's."""

    def __post_init__(self) -> None:
        if not self.head_dim:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)


def flat(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A raw `config.json` as one level of keys that have a value.

    Raises:
        NotImplementedError: a key that is not known has a value, or another kind of drafter.
    """
    kind = raw.get("speculators_model_type", "eagle3")
    if kind != "eagle3":
        raise NotImplementedError(f"speculators_model_type must be 'eagle3', got {kind!r}")
    layer = raw.get("transformer_layer_config") or {}
    found = {
        key: value
        for key, value in (layer | dict(raw)).items()
        if value is not None and key != "transformer_layer_config"
    }
    _check_keys(found, APPLIED | IN_WEIGHTS | WITHOUT_EFFECT, NEUTRAL)
    if layer and "norm_before_residual" not in found:
        log.warning("norm_before_residual is in no config.json of this head: taken as false")
    return found


def _check_keys(
    raw: Mapping[str, Any], known: frozenset[str], neutral: Mapping[str, tuple[Any, ...]]
) -> None:
    if raw.get("use_sliding_window") is False:
        known = known | {"sliding_window"}
    for key, value in raw.items():
        if key in known or key.startswith("_") or value in (None, *neutral.get(key, ())):
            continue
        wanted = f"one of {list(neutral[key])}" if neutral.get(key) else "absent"
        raise NotImplementedError(
            f"{key} of a draft head's config.json must be {wanted}, got {value!r}: it may change "
            "what is computed, and is not applied"
        )


def read_common(
    raw: Mapping[str, Any], weights: Mapping[str, Tensor], layer: str
) -> dict[str, Any]:
    """The fields of `HeadConfig`; where weights and config disagree, the weights decide.

    Args:
        raw: of `flat`.
        weights: of the head; none: the config is all there is.
        layer: the name of its first layer.
    """
    missing = [key for key in SIZES if key not in raw]
    if missing:
        raise ValueError(f"a head's config.json must have {missing}, got keys {sorted(raw)}")
    for key in (*SIZES, "draft_vocab_size", "target_hidden_size"):
        if key in raw and (type(raw[key]) is not int or raw[key] < 1):
            raise ValueError(f"{key} of a head's config.json must be >= 1, got {raw[key]!r}")
    activation = raw.get("hidden_act", "silu")
    if activation not in ACT2FN:
        raise ValueError(f"hidden_act must be one of {sorted(ACT2FN)}, got {activation!r}")
    theta, scaling = _rope(raw)
    num_heads = raw["num_attention_heads"]
    head_dim = raw["hidden_size"] // num_heads
    num_key_heads = raw.get("num_key_value_heads", num_heads)
    queries, keys = (weights.get(f"{layer}.self_attn.{name}_proj.weight") for name in "qk")
    if queries is not None and keys is not None:
        head_dim = len(queries) // num_heads
        num_key_heads = len(keys) // max(1, head_dim)
    return {
        **{key: raw[key] for key in SIZES},
        "num_key_value_heads": num_key_heads,
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-6),
        "hidden_act": activation,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "head_dim": head_dim,
        "qkv_bias": f"{layer}.self_attn.q_proj.bias" in weights
        if weights
        else raw.get("qkv_bias", False),
        "has_lm_head": "lm_head.weight" in weights,
    }


def _rope(raw: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """The rotary base, 10000 where the file has none, whatever the target's; and its scaling."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = float(raw.get("rope_theta", rope.pop("rope_theta", 10000.0)))
    kind = rope.pop("rope_type", None) or rope.pop("type", "default")
    rope.pop("type", None)
    if kind in ("default", "mrope"):  # of text alone, mrope's three positions are one
        return theta, None
    if kind not in ("linear", "llama3", "yarn"):
        raise NotImplementedError(
            f"the rope type of a draft head must be default, linear, llama3, yarn or mrope, "
            f"got {kind!r}"
        )
    if kind != "linear" and "max_position_embeddings" in raw:  # as `transformers` does
        rope.setdefault("original_max_position_embeddings", raw["max_position_embeddings"])
    return theta, {"rope_type": kind, **rope}


def frequencies(config: HeadConfig) -> tuple[Tensor, float]:
    """The rotary frequencies [head_dim / 2] float32, and what cosines and sines are scaled by.

    Raises:
        ValueError: the scaling lacks a number.
    """
    if config.rope_scaling is None:
        powers = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return config.rope_theta**-powers, 1.0
    rope = config.rope_scaling | {"rope_theta": config.rope_theta}
    length = rope.get("original_max_position_embeddings", 2048)
    try:
        like = LlamaConfig(
            head_dim=config.head_dim,
            rope_parameters=rope,
            max_position_embeddings=int(length * rope["factor"]),
        )
        return ROPE_INIT_FUNCTIONS[rope["rope_type"]](like, torch.device("cpu"))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"rope_scaling of a draft head must be whole, got {rope}: {error}"
        ) from None


def aux_layers(raw: Mapping[str, Any]) -> tuple[int, ...]:
    """Which hidden states of a target a head reads, as `transformers` counts them; () for unsaid.

    vLLM's top-level keys name a layer by what it reads; `eagle_config`, which SGLang and SpecForge
    read, by what it puts out.
    """
    nested = raw.get("eagle_config") or {}
    ids = "eagle_aux_hidden_state_layer_ids"
    _check_keys(nested, frozenset({ids}), EAGLE_CONFIG)
    if raw.get(ids):
        return tuple(raw[ids])
    if nested.get(ids):
        return tuple(layer + 1 for layer in nested[ids])
    return tuple(raw.get("aux_hidden_state_layer_ids") or ())


def common_json(config: HeadConfig) -> dict[str, Any]:
    """What `read_common` reads back, as the official files say it."""
    found = {
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
    if config.rope_scaling is not None:
        found["rope_scaling"] = config.rope_scaling
    return found
