"""Which models are refused by what their config or class tells, before anything is run.

Here stands what a trial on a few tokens cannot show: windows, recurrent state, tables that change
with the length of a text. What is not listed is tried (`probe`), so a family needs no entry.
"""

from typing import Any

from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

ATTENTION = ("sdpa", "eager")

WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "attention_chunk_size",
    "local_attention",
    "window_size",
    "keep_window_size",
    "index_topk",
)
"""What configs call the number of tokens that a layer attends to."""

WINDOWED = frozenset({"sliding_attention", "chunked_attention"})
"""Kinds of layers that attend in full to a text no longer than their window."""


def refusal(config: PreTrainedConfig, reason: str) -> NotImplementedError:
    return NotImplementedError(f"a model of type {config.model_type!r} is not served: {reason}")


def read_config(folder: str, revision: str | None, gguf: dict[str, str]) -> PreTrainedConfig:
    """A model's config, whose own code is not run.

    Raises:
        NotImplementedError: it cannot be read without.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, revision=revision, trust_remote_code=False, **gguf
        )
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise NotImplementedError(
            f"{folder} brings code of its own, which is never run: its type must be one that "
            "transformers knows"
        ) from error
    return config


def check_type(config: PreTrainedConfig) -> None:
    """Refuses what is no causal language model at all."""
    if config.is_encoder_decoder:
        raise refusal(config, "it is an encoder-decoder")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise refusal(config, "transformers knows no causal language model of that type")


def check_attention(implementation: str | None) -> None:
    """Refuses attention kernels that take no mask of our own."""
    if implementation not in (None, *ATTENTION):
        raise NotImplementedError(
            f"attn_implementation must be one of {', '.join(ATTENTION)}, got {implementation!r}: "
            "flash and flex attention take no tree mask"
        )


def check_model(model: PreTrainedModel) -> None:
    """Refuses a model whose drafted text could differ from its plain text, by type and reason."""
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        raise refusal(config, "it is an encoder-decoder")
    if model._is_stateful:
        raise refusal(config, "its recurrent state cannot go back to before a rejected token")
    if _has_alibi(model):
        raise refusal(config, "ALiBi biases attention by a token's place in the cache")
    if output_layer(model) is None:
        raise refusal(config, "it has no output head")
    check_attention(config._attn_implementation)
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", *WINDOWED}
    if kinds:
        raise refusal(config, f"it has layers of kind {', '.join(sorted(kinds))}")


def check_length(config: PreTrainedConfig, max_length: int) -> None:
    """Refuses texts so long that not every layer attends to all of them, or to all alike."""
    for name, limit in _limits(config).items():
        if max_length > limit:
            raise refusal(
                config,
                f"its {name} is {limit} tokens and a text may grow to {max_length}; "
                f"max_length={limit} keeps texts within it",
            )


def output_layer(model: PreTrainedModel) -> nn.Module | None:
    layer: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return layer


def _has_alibi(model: PreTrainedModel) -> bool:
    """Falcon and MPT have a flag, Bloom only a method."""
    attention = getattr(model.config, "attn_config", None)
    return bool(
        getattr(model.config, "alibi", False)
        or getattr(attention, "alibi", False)
        or hasattr(model.base_model, "build_alibi_tensor")
    )


def _limits(config: Any) -> dict[str, int]:
    """Longest texts to which every layer attends in full and alike, by the name of the limit."""
    limits: dict[str, int] = {}
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if kinds is None or set(kinds) - {"full_attention", "global"}:
        for name in WINDOWS:
            window = getattr(config, name, None)
            if isinstance(window, int) and window > 0:
                limits[name] = window
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # A longer text turns every position by other frequencies, those already cached too.
        limits["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    return limits
