"""Model families: served exactly, or refused by name and reason."""

import copy
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from adaeagle import ModelDrafter, Target, generate

MakeNoisyDrafter = Callable[[Target, float], ModelDrafter]
MakePrompt = Callable[[int, int], list[int]]
PlainText = Callable[..., list[int]]
CheckText = Callable[[Target, Sequence[int], list[int], list[int]], None]

COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GATED: dict[str, Any] = {**COMMON, "intermediate_size": 96, "num_key_value_heads": 2}
GPT: dict[str, Any] = {
    "vocab_size": 96,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXPERTS: dict[str, Any] = {**GATED, "num_experts_per_tok": 2}
LATENT: dict[str, Any] = {
    **EXPERTS,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}

# What sets a family apart from Llama stands behind it.
SERVED: dict[str, dict[str, Any]] = {
    "Mistral": {**GATED, "sliding_window": None},
    "Mixtral": {**EXPERTS, "num_local_experts": 4, "sliding_window": None},
    "Qwen2Moe": {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 32},
    "Qwen3Moe": {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 32, "head_dim": 12},
    "DeepseekV3": {**LATENT, "first_k_dense_replace": 1},  # latent attention: values narrower
    "Phi": {**GATED},  # half of each head is rotated, attention beside the MLP
    "Phi3": {**GATED},  # one matrix for queries, keys and values
    "GPTNeoX": {**COMMON, "intermediate_size": 96},
    "GPTJ": {**GPT, "rotary_dim": 8},
    "CodeGen": {**GPT, "rotary_dim": 8},
    "GPT2": {**GPT},  # learned positions
    "GPTBigCode": {**GPT},  # one key-value head
    # Learned positions that begin with 2, and features narrower than the layers.
    "OPT": {**COMMON, "ffn_dim": 96, "word_embed_proj_dim": 24},
    "Falcon": {**COMMON, "new_decoder_architecture": True, "num_kv_heads": 2},
    "StableLm": {**GATED, "partial_rotary_factor": 0.5},
    "Starcoder2": {**GATED, "sliding_window": None},
    "Olmo2": {**GATED},  # norms after each block
    "SmolLM3": {**GATED},  # layers without positions
    "Gemma": {**GATED, "head_dim": 12},
    "Gemma2": {  # soft caps on attention and logits
        **GATED,
        "head_dim": 12,
        "query_pre_attn_scalar": 12,
        "sliding_window": 256,
        "final_logit_softcapping": 4.0,
    },
    "Cohere": {**GATED, "logit_scale": 0.1},  # a factor
    "Granite": {**GATED, "logits_scaling": 8.0},  # a divisor
    "HyperCLOVAX": {**GATED, "logits_scaling": 0.2},  # a factor of the same name
}
POLICIES = ("chain(length=4)", "static_tree", "eagle2(depth=5, width=4, nodes=14)")
LENGTH = 32
NOISE = 0.01


@cache
def tiny_model(family: str, attention: str | None = None) -> PreTrainedModel:
    """A random model of a family whose texts vary."""
    torch.manual_seed(0)
    config: PreTrainedConfig = getattr(transformers, f"{family}Config")(
        **SERVED[family], tie_word_embeddings=False
    )
    model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, attn_implementation=attention
    )
    for name, weight in model.named_parameters():
        if weight.ndim > 1 or name.endswith("bias"):
            nn.init.normal_(weight, std=0.2)
    return model.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", SERVED)
def test_text_is_plain_decoding(
    family: str,
    make_noisy_drafter: MakeNoisyDrafter,
    make_prompt: MakePrompt,
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    """Token for token; drafts are accepted, so that trees and compaction are at work."""
    target = Target(tiny_model(family))
    drafter = make_noisy_drafter(target, NOISE)
    accepted: list[int] = []
    said: set[int] = set()
    for seed, policy in enumerate(POLICIES):
        prompt = make_prompt(7, seed)
        out = generate(target, drafter, policy, prompt, max_new_tokens=LENGTH)
        check_text(target, prompt, out.token_ids, plain_text(target, prompt, LENGTH))
        accepted += [record.num_accepted for record in out.rounds[:-1]]
        said.update(out.token_ids)
    assert sum(accepted) / len(accepted) >= 2
    assert len(said) > 10


@pytest.mark.parametrize("family", ["Mistral", "Phi3", "GPTNeoX", "GPT2", "OPT"])
def test_eager_attention(
    family: str,
    make_noisy_drafter: MakeNoisyDrafter,
    make_prompt: MakePrompt,
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    target = Target(tiny_model(family, "eager"))
    drafter = make_noisy_drafter(target, NOISE)
    prompt = make_prompt(7, 2)
    out = generate(target, drafter, "eagle2(depth=4, width=4)", prompt, max_new_tokens=16)
    check_text(target, prompt, out.token_ids, plain_text(target, prompt, 16))


@pytest.mark.parametrize("family", SERVED)
@torch.inference_mode()
def test_logits_are_the_models_own(family: str) -> None:
    target = Target(tiny_model(family))
    token_ids = torch.arange(12).unsqueeze(0)
    features = target.forward(token_ids, token_ids, None, target.new_cache(12))
    own = target.model(input_ids=token_ids).logits
    torch.testing.assert_close(target.logits(features.last), own, rtol=0, atol=0)
    assert features.last.shape[-1] == target.hidden_size


TINY_SSM: dict[str, Any] = {"vocab_size": 96, "hidden_size": 48, "num_hidden_layers": 2}
BART: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 6,
    "long_factor": [2.0] * 6,
    "original_max_position_embeddings": 64,
}
KEPT_WITHIN = "64 tokens and a text may grow to 256; max_length=64 keeps texts within it"

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "bloom": ("Bloom", {**GPT, "hidden_size": 48}, "ALiBi"),
    "mpt": ("Mpt", {"vocab_size": 96, "d_model": 48, "n_heads": 4, "n_layers": 2}, "ALiBi"),
    "falcon": ("Falcon", {**COMMON, "alibi": True}, "ALiBi"),
    "mistral": ("Mistral", {**GATED, "sliding_window": 64}, f"sliding_window is {KEPT_WITHIN}"),
    "gemma2": (
        "Gemma2",
        {**GATED, "head_dim": 12, "sliding_window": 64},
        f"sliding_window is {KEPT_WITHIN}",
    ),
    "gpt_neo": (
        "GPTNeo",
        {
            "vocab_size": 96,
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 64,
            "max_position_embeddings": 256,
        },
        f"window_size is {KEPT_WITHIN}",
    ),
    "llama4_text": (
        "Llama4Text",
        {
            **EXPERTS,
            "attention_chunk_size": 64,
            "num_local_experts": 2,
            "intermediate_size_mlp": 96,
            "head_dim": 12,
        },
        f"attention_chunk_size is {KEPT_WITHIN}",
    ),
    "phi3": (
        "Phi3",
        {**GATED, "rope_parameters": LONG_ROPE, "original_max_position_embeddings": 64},
        f"original_max_position_embeddings is {KEPT_WITHIN}",
    ),
    "mamba": ("Mamba", TINY_SSM, "recurrent state"),
    "rwkv": ("Rwkv", {**TINY_SSM, "attention_hidden_size": 48, "context_length": 64}, "recurrent"),
    "qwen3_next": (
        "Qwen3Next",
        {**EXPERTS, "num_hidden_layers": 4, "num_experts": 4, "head_dim": 12},
        "recurrent state",
    ),
    "lfm2": (
        "Lfm2",
        {**GATED, "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
        "layers of kind conv",
    ),
    "bart": ("Bart", {**BART, "is_decoder": True, "is_encoder_decoder": False}, ""),
    "bert-generation": (
        "BertGeneration",
        {**COMMON, "intermediate_size": 96, "pad_token_id": 0},  # attends to later tokens
        "plain decoding's rounding by [0-9.]+e[+]00",
    ),
    "bert": (
        "Bert",
        {**COMMON, "intermediate_size": 96, "pad_token_id": 0},
        "its logits are off its scaled, capped output head's",
    ),
    "openai-gpt": (
        "OpenAIGPT",
        {key: value for key, value in GPT.items() if not key.endswith("token_id")},
        "a trial failed with IndexError",  # it has no cache
    ),
}


@pytest.mark.parametrize("model_type", REFUSED)
@pytest.mark.filterwarnings("ignore")  # of old models' code, on its way to being refused
def test_refused_by_name_and_reason(model_type: str) -> None:
    name, sizes, reason = REFUSED[model_type]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with pytest.raises(NotImplementedError, match=f"type '{model_type}' is not served: .*{reason}"):
        Target(model)


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "phi3"])
def test_texts_within_a_window_are_served(
    model_type: str,
    make_noisy_drafter: MakeNoisyDrafter,
    make_prompt: MakePrompt,
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    name, sizes, _ = REFUSED[model_type]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes, initializer_range=0.2)
    model = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    target = Target(model, max_length=64)
    drafter = ModelDrafter(Target(copy.deepcopy(model), max_length=64), target)
    prompt = make_prompt(7, 3)
    out = generate(target, drafter, "eagle2(depth=4, width=3)", prompt, max_new_tokens=100)
    check_text(target, prompt, out.token_ids, plain_text(target, prompt, 64 - 7))


def write_config(folder: Path, **entries: object) -> str:
    (folder / "config.json").write_text(json.dumps(entries), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("t5", "encoder-decoder"),
        ("bart", "encoder-decoder"),
        ("vit", "transformers knows no causal language model of that type"),
    ],
)
def test_refused_before_weights_are_read(model_type: str, reason: str, tmp_path: Path) -> None:
    folder = write_config(tmp_path, model_type=model_type)
    with pytest.raises(NotImplementedError, match=f"type '{model_type}' is not served: .*{reason}"):
        Target.from_pretrained(folder)


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_attention_without_a_tree_mask_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_config(tmp_path, model_type="llama")
    rule = f"attn_implementation must be one of sdpa, eager, got '{name}': .* no tree mask"
    with pytest.raises(NotImplementedError, match=rule):
        Target.from_pretrained(folder, attn_implementation=name)


def test_loading_options_reach_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices and quantisation need packages that tests do without: what is passed on is held."""
    tiny_model("Mistral").save_pretrained(tmp_path)
    given: dict[str, Any] = {}
    load = AutoModelForCausalLM.from_pretrained

    def spy(folder: str, **options: Any) -> Any:
        given.update(options)
        options.pop("device_map")
        options.pop("quantization_config")
        return load(folder, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    quantised = object()
    target = Target.from_pretrained(
        str(tmp_path),
        dtype="bfloat16",
        attn_implementation="eager",
        revision="main",
        device_map="auto",
        quantization=quantised,
    )
    assert given["device_map"] == "auto"
    assert given["quantization_config"] is quantised
    assert (given["attn_implementation"], given["revision"]) == ("eager", "main")
    assert target.dtype is torch.bfloat16
    with pytest.raises(ValueError, match="device must be None where device_map is given"):
        Target.from_pretrained(str(tmp_path), device="cpu", device_map="auto")


def test_a_model_over_several_devices_needs_its_embedding(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    tiny_model("Mistral").save_pretrained(tmp_path)
    parts = ["model.layers", "model.norm", "model.rotary_emb", "lm_head"]
    split = {"model.embed_tokens": "cpu", **dict.fromkeys(parts, "disk")}
    prompt = [1, 2, 3]
    target = Target.from_pretrained(str(tmp_path), device_map=split)
    whole = Target.from_pretrained(str(tmp_path))
    drafter = ModelDrafter(whole, whole)
    out = generate(target, drafter, "eagle2(depth=3, width=3)", prompt, max_new_tokens=12)
    plain = generate(whole, None, "vanilla", prompt, max_new_tokens=12)
    assert out.token_ids == plain.token_ids
    swapped = {"model.embed_tokens": "disk", **dict.fromkeys(parts, "cpu")}
    with pytest.raises(ValueError, match="must keep the input embedding in memory"):
        Target.from_pretrained(str(tmp_path), device_map=swapped)


@pytest.mark.parametrize("family", ["GPT2", "OPT", "Mistral"])
def test_a_text_may_outgrow_its_draft_model(
    family: str, make_prompt: MakePrompt, plain_text: PlainText, check_text: CheckText
) -> None:
    """Learned positions end with the draft model's context; its drafts may be bad from there on."""
    target = Target(tiny_model(family))
    config = copy.deepcopy(target.model.config)
    config.update({"n_positions" if family == "GPT2" else "max_position_embeddings": 16})
    small = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    drafter = ModelDrafter(Target(small), target)
    prompt = make_prompt(7, 0)
    out = generate(target, drafter, "eagle2(depth=3, width=2)", prompt, max_new_tokens=24)
    check_text(target, prompt, out.token_ids, plain_text(target, prompt, 24))


def test_a_windowed_draft_model_serves_texts_within_its_window(tmp_path: Path) -> None:
    name, sizes, _ = REFUSED["gemma2"]
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(tmp_path)
    target = Target.from_pretrained(str(tmp_path), max_length=64)
    assert ModelDrafter.from_pretrained(str(tmp_path), target).model.max_length == 64
    with pytest.raises(NotImplementedError, match="sliding_window is 64 tokens"):
        ModelDrafter.from_pretrained(str(tmp_path), Target(tiny_model("Mistral")))
