"""EAGLE heads as they are published: names, norms, rotary scaling, layers read, vocabularies.

Shapes: H hidden size, A layers of the target that are read.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from adaeagle import EagleDrafter, Target, generate
from adaeagle.drafters.eagle import load_head
from adaeagle.drafters.eagle3_head import Eagle3Head, Eagle3HeadConfig
from adaeagle.drafters.pretrained import kind_of, pretrained
from adaeagle.models.backbone import LAST

VOCAB, HIDDEN, INNER, HEADS, KV, DRAFT, EPS = 96, 48, 64, 4, 2, 24, 1e-5
EAGLE1: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "num_hidden_layers": 1,
    "vocab_size": VOCAB,
    "rms_norm_eps": EPS,
    "hidden_act": "silu",
}
EAGLE3 = EAGLE1 | {"draft_vocab_size": DRAFT}
FULL = EAGLE3 | {"draft_vocab_size": VOCAB}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "factor": 2.0}

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def target(make_model: Callable[..., PreTrainedModel]) -> Target:
    return Target(make_model("llama", num_layers=8), name="tiny")


def weight(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.2


def layer_weights(prefix: str, width: int) -> Weights:
    size = HIDDEN // HEADS
    shapes = {
        "self_attn.q_proj": (HIDDEN, width),
        "self_attn.k_proj": (KV * size, width),
        "self_attn.v_proj": (KV * size, width),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    found = {f"{prefix}{name}.weight": weight(*shape) for name, shape in shapes.items()}
    return found | {f"{prefix}post_attention_layernorm.weight": 1 + weight(HIDDEN)}


def eagle1(bias: bool = True) -> Weights:
    found = {"fc.weight": weight(HIDDEN, 2 * HIDDEN), **layer_weights("layers.0.", HIDDEN)}
    return found | ({"fc.bias": weight(HIDDEN)} if bias else {})


def eagle3(prefix: str = "midlayer.", draft: int = DRAFT, num_read: int = 3) -> Weights:
    found = {"fc.weight": weight(HIDDEN, num_read * HIDDEN), **layer_weights(prefix, 2 * HIDDEN)}
    for name in (f"{prefix}hidden_norm", f"{prefix}input_layernorm", "norm"):
        found[f"{name}.weight"] = 1 + weight(HIDDEN)
    found["lm_head.weight"] = weight(draft, HIDDEN)
    if draft != VOCAB:
        ids = torch.arange(draft) * 4
        found["d2t"] = ids - torch.arange(draft)
        found["t2d"] = torch.zeros(VOCAB, dtype=torch.bool).index_fill_(0, ids, True)
    return found


def without(found: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in names}


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def write(folder: Path, raw: dict[str, Any], weights: Weights) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    save_file(weights, folder / "model.safetensors")
    return str(folder)


LAYOUTS: dict[str, tuple[dict[str, Any], Weights]] = {
    "no draft_vocab_size": (without(EAGLE3, "draft_vocab_size"), eagle3()),
    "null draft_vocab_size": (EAGLE3 | {"draft_vocab_size": None}, eagle3()),
    "no lm_head": (FULL, without(eagle3(draft=VOCAB), "lm_head.weight")),
    "no lm_head, draft vocabulary": (EAGLE3, without(eagle3(), "lm_head.weight")),
    "layers.0": (EAGLE3, eagle3("layers.0.")),
    "layers.0, full vocabulary": (FULL, eagle3("layers.0.", draft=VOCAB)),
    "five layers": (
        EAGLE3 | {"num_aux_hidden_states": 5, "aux_hidden_state_layer_ids": [1, 2, 3, 4, 5]},
        eagle3(num_read=5),
    ),
    "eagle_config": (
        EAGLE3
        | {
            "eagle_config": {
                "eagle_aux_hidden_state_layer_ids": [0, 3, 6],
                "use_aux_hidden_state": True,
            }
        },
        eagle3(),
    ),
    "fc_norm": (
        EAGLE3,
        eagle3() | {f"fc_norm.{n}.weight": 1 + weight(HIDDEN) for n in range(3)},
    ),
    "norm_before_fc": (
        EAGLE3 | {"norm_before_fc": True},
        eagle3() | {"input_norm.weight": 1 + weight(3 * HIDDEN)},
    ),
    "llama3": (EAGLE3 | {"rope_scaling": LLAMA3}, eagle3()),
    "yarn": (EAGLE3 | {"rope_parameters": YARN}, eagle3()),
    "mrope": (EAGLE3 | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}}, eagle3()),
    "null rope_theta": (EAGLE3 | {"rope_theta": None}, eagle3()),
    "window of nobody": (EAGLE3 | {"sliding_window": 8, "use_sliding_window": False}, eagle3()),
    "module": (EAGLE3, prefixed(eagle3(), "module.")),
    "_orig_mod": (EAGLE3, prefixed(eagle3(), "module._orig_mod.")),
    "speculators": (
        {
            "speculators_model_type": "eagle3",
            "transformer_layer_config": EAGLE1 | {"rope_parameters": {"rope_theta": 5e5}},
            "speculators_config": {"algorithm": "eagle3"},
            "draft_vocab_size": DRAFT,
            "norm_before_residual": True,
        },
        eagle3("layers.0.") | {"embed_tokens.weight": weight(VOCAB, HIDDEN)},
    ),
    "eagle1, bias in the file alone": (EAGLE1 | {"bias": False}, eagle1()),
    "eagle1, no bias": (EAGLE1, eagle1(bias=False)),
    "eagle1, attention biases": (
        EAGLE1,
        eagle1()
        | {
            f"layers.0.self_attn.{name}_proj.bias": weight(size)
            for name, size in (("q", HIDDEN), ("k", 24), ("v", 24))
        },
    ),
    "eagle1, key heads of the file": (without(EAGLE1, "num_key_value_heads"), eagle1()),
    "eagle1, head_dim of the target": (EAGLE1 | {"head_dim": 999}, eagle1()),
    "eagle1, layers of the target": (EAGLE1 | {"num_hidden_layers": 32}, eagle1()),
    "eagle1, lm_head": (EAGLE1, eagle1() | {"lm_head.weight": weight(VOCAB, HIDDEN)}),
    "eagle1, inv_freq": (EAGLE1, eagle1() | {"layers.0.self_attn.rotary_emb.inv_freq": weight(6)}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_loads_drafts_and_comes_back(
    layout: str, target: Target, tmp_path: Path
) -> None:
    raw, weights = LAYOUTS[layout]
    name = write(tmp_path / "head", raw, weights)
    assert kind_of(name) == "eagle"
    drafter = pretrained(target, name)
    assert isinstance(drafter, EagleDrafter)
    assert drafter.kind == ("eagle" if "eagle1" in layout else "eagle3")
    found = generate(target, drafter, "eagle2(depth=2, width=3)", [1, 2], max_new_tokens=8)
    plain = generate(target, None, "vanilla", [1, 2], max_new_tokens=8)
    assert found.token_ids == plain.token_ids
    drafter.save_pretrained(tmp_path / "saved")
    back = EagleDrafter.from_pretrained(str(tmp_path / "saved"), target)
    assert back.head.config == drafter.head.config
    assert back.feature_layers == drafter.feature_layers
    for key, value in drafter.head.state_dict().items():
        assert torch.equal(back.head.state_dict()[key], value), key


REFUSED: dict[str, tuple[dict[str, Any], Weights, str]] = {
    "five layers, unsaid": (
        EAGLE3 | {"num_aux_hidden_states": 5},
        eagle3(num_read=5),
        r"eagle_aux_hidden_state_layer_ids .* 5 of them, got \[\]",
    ),
    "last layer": (
        EAGLE3 | {"eagle_config": {"use_aux_hidden_state": False}},
        eagle3(num_read=1),
        r"use_aux_hidden_state .* one of \[True\], got False",
    ),
    "a layer that is not there": (
        EAGLE3 | {"eagle_aux_hidden_state_layer_ids": [2, 4, 8]},
        eagle3(),
        r"inputs of the target's 8 layers, got \[2, 4, 8\]",
    ),
    "two layers": (EAGLE3, eagle3() | layer_weights("layers.1.", HIDDEN), r"not known \['layers"),
    "norm of queries": (
        EAGLE3, eagle3() | {"midlayer.self_attn.q_norm.weight": weight(12)}, "not known",
    ),
    "partial rotary": (EAGLE3 | {"partial_rotary_factor": 0.5}, eagle3(), "partial_rotary_factor"),
    "window": (EAGLE3 | {"sliding_window": 4096}, eagle3(), "sliding_window .* must be absent"),
    "unknown key": (EAGLE3 | {"residual_multiplier": 0.2}, eagle3(), "residual_multiplier"),
    "dynamic": (
        EAGLE3 | {"rope_scaling": {"rope_type": "dynamic"}}, eagle3(), "got 'dynamic'",
    ),
    "half a rope": (EAGLE3 | {"rope_scaling": {"type": "yarn"}}, eagle3(), "rope_scaling .* whole"),
    "activation": (EAGLE1 | {"hidden_act": "swiglu"}, eagle1(), "hidden_act must be one of"),
    "dflash": (
        {"speculators_model_type": "dflash", "transformer_layer_config": EAGLE1},
        eagle3(), "speculators_model_type must be 'eagle3', got 'dflash'",
    ),
    "ids for offsets": (EAGLE3, eagle3() | {"d2t": torch.arange(DRAFT) * 4}, "target ids|t2d"),
    "no offsets": (EAGLE3, eagle3() | {"d2t": torch.zeros(DRAFT, dtype=torch.int64)}, "t2d of"),
    "fractions": (EAGLE3, eagle3() | {"d2t": torch.zeros(DRAFT)}, "list of offsets, got"),
    "a norm that is not there": (EAGLE3 | {"fc_norm": True}, eagle3(), r"missing \['fc_norm"),
}  # fmt: skip


@pytest.mark.parametrize("layout", REFUSED)
def test_what_is_not_applied_is_refused_by_its_name(
    layout: str, target: Target, tmp_path: Path
) -> None:
    raw, weights, message = REFUSED[layout]
    with pytest.raises((ValueError, NotImplementedError), match=message):
        EagleDrafter.from_pretrained(write(tmp_path, raw, weights), target)


def test_layers_are_named_by_what_they_read_or_by_what_they_put_out(target: Target) -> None:
    def layers(**keys: Any) -> tuple[int, ...]:
        return EagleDrafter(load_head("x", EAGLE3 | keys, eagle3()), target).feature_layers

    ids = "eagle_aux_hidden_state_layer_ids"
    assert layers() == layers(**{ids: [2, 4, 5]}) == (2, 4, 5)
    assert layers(eagle_config={ids: [1, 3, 4]}) == (2, 4, 5)
    assert layers(eagle_config={ids: []}) == (2, 4, 5)


def test_an_own_output_layer_goes_before_the_targets(target: Target) -> None:
    states, own = torch.randn(2, HIDDEN), weight(VOCAB, HIDDEN)
    drafter = EagleDrafter(load_head("x", EAGLE1, eagle1() | {"lm_head.weight": own}), target)
    torch.testing.assert_close(drafter.logits(states), states @ own.T)
    shared = EagleDrafter(load_head("x", EAGLE1, eagle1()), target)
    torch.testing.assert_close(shared.logits(states), target.logits(states))
    with pytest.raises(ValueError, match="must be None for a head with an output layer of its own"):
        EagleDrafter(drafter.head, target, draft_vocab=torch.tensor([1]))
    borrowed = load_head("x", EAGLE3, without(eagle3(), "lm_head.weight"))
    drafter = EagleDrafter(borrowed, target)
    expected = target.logits(rms(states, eagle3()["norm.weight"]))[:, drafter.vocab_map]
    torch.testing.assert_close(drafter.logits(states), expected)


def rms(x: Tensor, scale: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * scale


def states_of_one_pair(w: Weights, flags: set[str], embedding: Tensor, h: Tensor) -> Tensor:
    """The head on a text of one pair, where attention hands on the value: [H]."""
    normed = rms(h, w["midlayer.hidden_norm.weight"])
    read = torch.cat((rms(embedding, w["midlayer.input_layernorm.weight"]), normed))
    value = (w["midlayer.self_attn.v_proj.weight"] @ read).view(KV, -1)
    attended = value.repeat_interleave(HEADS // KV, dim=0).flatten()
    a = normed if "norm_before_residual" in flags else h
    a = a + w["midlayer.self_attn.o_proj.weight"] @ attended
    n = rms(a, w["midlayer.post_attention_layernorm.weight"])
    gate = torch.nn.functional.silu(w["midlayer.mlp.gate_proj.weight"] @ n)
    a = a + w["midlayer.mlp.down_proj.weight"] @ (gate * (w["midlayer.mlp.up_proj.weight"] @ n))
    return rms(a, w["norm.weight"]) if "norm_output" in flags else a


@pytest.mark.parametrize("flags", [set(), {"norm_before_residual"}, {"norm_output"}])
def test_norms_around_the_layer_are_the_published_formula(flags: set[str]) -> None:
    raw, w = EAGLE3 | dict.fromkeys(flags, True), eagle3()
    head = load_head("x", raw, w)
    assert isinstance(head, Eagle3Head)
    embedding, h = torch.randn(HIDDEN), torch.randn(HIDDEN)
    out = head(embedding.view(1, 1, -1), h.view(1, 1, -1), torch.tensor([[3]]))
    expected = states_of_one_pair(w, flags, embedding, h)
    torch.testing.assert_close(out[0, 0], expected)
    read = expected if "norm_output" in flags else rms(expected, w["norm.weight"])
    torch.testing.assert_close(head.logits(out)[0, 0], w["lm_head.weight"] @ read)


def test_norms_of_features_are_the_published_formula() -> None:
    features = torch.randn(3 * HIDDEN)
    raw, w = LAYOUTS["fc_norm"]
    parts = [rms(part, w[f"fc_norm.{n}.weight"]) for n, part in enumerate(features.chunk(3))]
    torch.testing.assert_close(
        fused(raw, w, features), w["fc.weight"] @ torch.cat(parts), atol=1e-4, rtol=1e-4
    )
    raw, w = LAYOUTS["norm_before_fc"]
    normed = rms(features, w["input_norm.weight"])
    torch.testing.assert_close(
        fused(raw, w, features), w["fc.weight"] @ normed, atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(fused(EAGLE3, eagle3(), features), w["fc.weight"] @ normed)


def fused(raw: dict[str, Any], weights: Weights, features: Tensor) -> Tensor:
    head = load_head("x", raw, weights)
    assert isinstance(head, Eagle3Head)
    return head.fuse(features)


@pytest.mark.parametrize("rope", [None, LINEAR, LLAMA3, YARN])
def test_rotary_positions_are_those_of_transformers(rope: dict[str, Any] | None) -> None:
    raw = EAGLE3 | {"rope_theta": 5e5} | ({} if rope is None else {"rope_scaling": rope})
    config = Eagle3HeadConfig.from_json(raw)
    like = LlamaConfig(
        hidden_size=HIDDEN, num_attention_heads=HEADS, max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5, **(rope or {})},
    )  # fmt: skip
    positions = torch.tensor([[0, 1, 77, 250]])
    expected = LlamaRotaryEmbedding(like)(torch.empty(0), positions)
    found = Eagle3Head(config).rotary(positions, torch.float32)
    plain = Eagle3Head(Eagle3HeadConfig.from_json(EAGLE3 | {"rope_theta": 5e5})).rotary(
        positions, torch.float32
    )
    for own, other, unscaled in zip(found, expected, plain, strict=True):
        torch.testing.assert_close(own.squeeze(2), other, atol=1e-5, rtol=1e-5)
        assert torch.equal(own, unscaled) == (rope is None)


def test_shards_and_a_pointer_of_git_lfs(target: Target, tmp_path: Path) -> None:
    weights = eagle3()
    write(tmp_path, EAGLE3, weights)
    (tmp_path / "model.safetensors").unlink()
    places = {key: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, key in enumerate(weights)}
    for file in set(places.values()):
        save_file({key: weights[key] for key in weights if places[key] == file}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    drafter = EagleDrafter.from_pretrained(str(tmp_path), target)
    assert torch.equal(drafter.head.fc.weight, weights["fc.weight"])
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    (tmp_path / min(places.values())).write_text(pointer)
    with pytest.raises(ValueError, match=r"is a Git LFS pointer.*git lfs pull"):
        EagleDrafter.from_pretrained(str(tmp_path), target)


def test_a_vocabulary_padded_otherwise(
    make_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    """A head without a tensor of its size takes the target's; one per cent is padding, no more."""
    target = Target(make_model("llama", num_layers=8, vocab_size=256), name="padded")
    raw = EAGLE1 | {"vocab_size": 254}
    drafter = EagleDrafter.from_pretrained(write(tmp_path, raw, eagle1()), target)
    assert drafter.head.config.vocab_size == 256
    assert drafter.feature_layers == (LAST,)
    with pytest.raises(ValueError, match=r"vocab_size must be padded's 256, got 96"):
        EagleDrafter.from_pretrained(write(tmp_path, EAGLE1, eagle1()), target)
