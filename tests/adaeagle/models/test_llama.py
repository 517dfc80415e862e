"""Layers computed from their weights: the model's own bits, and whoever has a say keeps it."""

import copy
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention

from adaeagle import Target
from adaeagle.models import llama as llama_layers
from adaeagle.models.backbone import LAST, Form
from adaeagle.models.kv_cache import additive, causal_mask

MakeModel = Callable[..., PreTrainedModel]

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
NUM_BEFORE = 37


def own(model: PreTrainedModel) -> Any:
    """A copy, to be changed."""
    return copy.deepcopy(model)


def made(config: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight, std=0.2)
    return model


@torch.no_grad()
def ran(target: Target, form: Form, num_rows: int) -> list[Tensor]:
    """Features and caches of `num_rows` rows in a tree of two chains, behind a text."""
    target.body.form = form
    cache = target.new_cache(NUM_BEFORE + num_rows)
    token_ids = torch.arange(NUM_BEFORE + num_rows)[None] * 7 % 96
    positions = torch.arange(NUM_BEFORE)[None]
    target.forward(token_ids[:, :NUM_BEFORE], positions, None, cache)
    mask = None
    depths = torch.arange(num_rows)
    if num_rows > 1:
        allowed = causal_mask(num_rows, NUM_BEFORE + num_rows, target.device)
        other_chain = (depths[:, None] + depths) % 2 == 1
        allowed[:, NUM_BEFORE:] &= ~other_chain
        mask = additive(allowed, target.dtype)[None, None]
    rows = (token_ids[:, NUM_BEFORE:], NUM_BEFORE + depths[None] // 2, mask, cache, (0, 2, LAST))
    features = target.forward(*rows)
    assert cache.length == NUM_BEFORE + num_rows
    layers: list[Any] = list(cache.layers)
    kept = [half[:, :, : cache.length] for layer in layers for half in (layer.keys, layer.values)]
    return [features.last, features.chosen, *kept]


def assert_same_bits(target: Target, num_rows: int = 3) -> None:
    target.body.form = "weights"
    found = [ran(target, form, num_rows) for form in ("weights", "whole")]
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        LlamaConfig(**SIZES | {"num_key_value_heads": 4, "head_dim": 16}),
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
        LlamaConfig(
            **SIZES, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
        ),
        MistralConfig(**SIZES, sliding_window=None),
    ],
    ids=["grouped", "head_dim", "biases", "yarn", "mistral"],
)
def test_the_same_bits(config: Any, dtype: torch.dtype) -> None:
    target = Target(made(config).to(dtype))
    assert target.body.form == "weights"
    for num_rows in (1, 2, 5, 17, 40):
        assert_same_bits(target, num_rows)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_the_same_bits_in_other_families(family: str, make_model: MakeModel) -> None:
    """With biases, and with norms of queries and keys."""
    target = Target(own(make_model(family)))
    assert target.body.form == "weights"
    for num_rows in (1, 6):
        assert_same_bits(target, num_rows)


def test_the_same_bits_by_the_models_attention(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on other devices."""
    monkeypatch.setattr(llama_layers, "GROUPED_ON", ())
    target = Target(own(make_model("llama")))
    assert target.body.form == "weights"
    for num_rows in (1, 6):
        assert_same_bits(target, num_rows)


@torch.no_grad()
def test_no_layer_is_called(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing would be won."""
    target = Target(own(make_model("llama")))
    cache = target.new_cache(8)
    target.forward(torch.arange(3, 9)[None], torch.arange(6)[None], None, cache)
    layer: Any = type(target.model.base_model.layers[0])  # type: ignore[index]
    monkeypatch.setattr(layer, "forward", None)
    target.forward(torch.tensor([[11]]), torch.tensor([[6]]), None, cache)


MODULES = ["", "input_layernorm", "self_attn", "self_attn.o_proj", "mlp", "mlp.act_fn"]


@pytest.mark.parametrize("path", MODULES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_are_heard(path: str, when: str, make_model: MakeModel) -> None:
    """Of other libraries, set before the target is made or after."""
    model = own(make_model("llama"))
    target = Target(model) if when == "after" else None
    calls: list[str] = []
    module = attrgetter(path)(model.base_model.layers[1]) if path else model.base_model.layers[1]
    module.register_forward_pre_hook(lambda *_: calls.append("hook"))
    target = target or Target(model)
    calls.clear()
    ran(target, target.body.form, 3)
    assert calls == ["hook", "hook"]  # of the text, and of the rows


def test_another_forward_is_called(make_model: MakeModel) -> None:
    """As libraries set one on a module that is moved, quantised or watched."""
    model = own(make_model("llama"))
    target = Target(model)
    down = model.base_model.layers[1].mlp.down_proj
    forward = down.forward
    down.forward = lambda x: 2 * forward(x)
    assert_same_bits(target)
    assert Target(model).body.form == "layers"


def test_another_module_is_called(make_model: MakeModel) -> None:
    """As adapters take the place of projections."""
    model = own(make_model("llama"))
    target = Target(model)
    before = ran(target, "weights", 3)

    class Adapter(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.base(x)  # type: ignore[no-any-return]

    mlp = model.base_model.layers[1].mlp
    mlp.gate_proj = Adapter(mlp.gate_proj)
    assert_same_bits(target)
    assert not torch.equal(ran(target, "weights", 3)[0], before[0])


def test_other_weights_are_found(make_model: MakeModel) -> None:
    model = own(make_model("llama"))
    target = Target(model)
    before = ran(target, "weights", 3)
    layer = model.base_model.layers[1]
    for module in (layer.self_attn.q_proj, layer.input_layernorm, layer.mlp.up_proj):
        module.weight = nn.Parameter(1.5 * module.weight.detach())
    assert target.body.form == "weights"
    assert_same_bits(target)
    assert not torch.equal(ran(target, "weights", 3)[0], before[0])


def test_a_copy_has_its_own_weights(make_model: MakeModel) -> None:
    target = Target(own(make_model("llama")))
    other: Any = copy.deepcopy(target)
    before = ran(target, "weights", 3)
    layer = other.model.base_model.layers[1]
    with torch.no_grad():
        layer.input_layernorm.weight.mul_(1.5)
        layer.mlp.up_proj.weight.mul_(1.5)
    assert_same_bits(other)
    assert all(map(torch.equal, ran(target, "weights", 3), before))
    layer.mlp.forward = lambda x: 2 * x
    assert_same_bits(other)


def test_another_attention_is_called(make_model: MakeModel) -> None:
    model = own(make_model("llama"))
    target = Target(model)
    model.set_attn_implementation("eager")
    assert_same_bits(target)


class Warm(LlamaAttention):
    """Differs from Llama's far on, where no trial of a few tokens looks."""

    def forward(self, *given: Any, **named: Any) -> Any:
        mixed, weights = super().forward(*given, **named)
        return torch.where(named["position_ids"][..., None] > 30, 1.5, 1.0) * mixed, weights


def test_classes_that_are_not_known_are_called(make_model: MakeModel) -> None:
    model = own(make_model("llama"))
    for layer in model.base_model.layers:
        layer.self_attn.__class__ = Warm
    target = Target(model)
    assert target.body.form == "layers"
    before = ran(target, "layers", 3)
    assert all(map(torch.equal, before, ran(target, "whole", 3)))


def test_a_release_that_computes_otherwise_is_called(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known classes of unknown code: the trial tells."""
    model = own(make_model("llama"))
    mlp: Any = type(model.base_model.layers[0].mlp)
    forward = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda self, x: 1.0001 * forward(self, x))
    assert Target(model).body.form == "layers"
