"""Layers called one after another: the same bits as the model's own forward, or not at all."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from adaeagle import Target
from adaeagle.models.backbone import LAST, Form, RotaryTable
from adaeagle.models.kv_cache import KVCache

MakeModel = Callable[..., PreTrainedModel]


FORMS: tuple[Form, ...] = ("weights", "layers", "whole")


def own(model: PreTrainedModel) -> Any:
    """A copy, to be changed."""
    return copy.deepcopy(model)


def after_prompt(target: Target, capacity: int) -> KVCache:
    """A cache that holds six tokens."""
    cache = target.new_cache(capacity)
    target.forward(torch.arange(3, 9)[None], torch.arange(6)[None], None, cache)
    return cache


def tree_of(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A token with two children, as rows of one forward after six tokens."""
    low = torch.finfo(dtype).min
    mask = torch.zeros(1, 1, 3, 9, dtype=dtype)
    mask[0, 0, :, 6:] = torch.tensor([[0, low, low], [0, 0, low], [0, low, 0]])
    return torch.tensor([[11, 12, 13]]), torch.tensor([[6, 7, 7]]), mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_the_same_bits(
    family: str, attention: str, dtype: torch.dtype, make_model: MakeModel
) -> None:
    target = Target(own(make_model(family, attention=attention)).to(dtype))
    assert target.body.form == ("weights" if attention == "sdpa" else "layers")
    step = (torch.tensor([[11]]), torch.tensor([[6]]), None)
    later = (torch.tensor([[11, 12, 13]]), torch.tensor([[6, 7, 8]]), None)  # of a prompt
    for token_ids, positions, mask in (step, later, tree_of(dtype)):
        found: list[Tensor] = []
        for form in FORMS:
            target.body.form = form
            # Twice, since a table of cosines may be there from before.
            for capacity in (16, 512):
                cache = after_prompt(target, capacity)
                features = target.forward(token_ids, positions, mask, cache, (1, 3, LAST))
                assert cache.length == 6 + token_ids.shape[1]
                last: Any = cache.layers[-1]
                found += [features.chosen, features.last, last.keys[:, :, : cache.length]]
        for some in range(3):
            assert all(torch.equal(found[some], other) for other in found[some::3])


@torch.no_grad()
def test_the_layers_are_called_alone(make_model: MakeModel) -> None:
    """What lies around them is not: else nothing would be won."""
    model = own(make_model("llama"))
    target = Target(model)
    cache = after_prompt(target, 16)
    calls: list[Any] = []

    def noted(body: Any, **given: Any) -> None:
        calls.append(given)

    bare, type(model.base_model).forward = type(model.base_model).forward, noted
    try:
        target.forward(*tree_of(torch.float32), cache)
        after_prompt(target, 16)
    finally:
        type(model.base_model).forward = bare
    assert calls == []


def test_rows_that_see_each_other_need_a_mask(make_model: MakeModel) -> None:
    """A prompt comes without one, behind other tokens too."""
    target = Target(own(make_model("llama", attention="eager")))
    rest, positions = torch.tensor([[11, 12, 13]]), torch.tensor([[6, 7, 8]])
    with torch.no_grad():
        found = target.forward(rest, positions, None, after_prompt(target, 16)).last
        text = torch.cat((torch.arange(3, 9), rest[0]))[None]
        whole = target.model.base_model(text).last_hidden_state[:, 6:]
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_lists_that_count_otherwise_are_not_asked_for(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`transformers` 5.17 leaves the embeddings out where a list of layers is given."""
    model = own(make_model("llama"))
    prompt = (torch.arange(3, 9)[None], torch.arange(6)[None], None)

    def chosen() -> Tensor:
        target = Target(model)
        return target.forward(*prompt, target.new_cache(6), (0, 2, LAST)).chosen

    expected = chosen()

    kind: Any = type(model.base_model)
    forward = kind.forward

    def counting(self: Any, output_hidden_states: Any = False, **given: Any) -> Any:
        output = forward(self, output_hidden_states=bool(output_hidden_states), **given)
        if isinstance(output_hidden_states, list):
            output.hidden_states = output.hidden_states[1:]
        return output

    monkeypatch.setattr(kind, "forward", counting)
    assert torch.equal(chosen(), expected)


@torch.no_grad()
def test_who_has_a_say_in_the_body_keeps_it(make_model: MakeModel) -> None:
    """Hooks of other libraries, set before the target is made or after."""
    model = own(make_model("llama"))
    target = Target(model)
    cache = after_prompt(target, 16)
    calls: list[str] = []
    handle = model.base_model.register_forward_hook(lambda *_: calls.append("hook"))
    target.forward(*tree_of(torch.float32), cache)
    assert calls == ["hook"]
    assert Target(model).body.form == "whole"
    handle.remove()
    forward = model.base_model.forward

    def replaced(**given: Any) -> Any:
        calls.append("own")
        return forward(**given)

    model.base_model.forward = replaced
    cache.truncate(6)
    target.forward(*tree_of(torch.float32), cache)
    assert calls[-1] == "own"


def scaled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return 1.5 * output


def test_a_body_that_does_more_is_called_as_it_is(make_model: MakeModel) -> None:
    model = own(make_model("llama"))

    class Scaling(type(model.base_model)):  # type: ignore[misc]
        """Scales its embeddings, as Gemma does."""

        def forward(self, input_ids: Tensor, **given: Any) -> Any:
            given["inputs_embeds"] = 1.5 * self.embed_tokens(input_ids)
            return super().forward(**given)

    model.base_model.__class__ = Scaling
    assert Target(model).body.form == "whole"
    # A layer that everybody calls may do what it likes.
    model = own(make_model("llama"))
    model.base_model.layers[1].mlp.register_forward_hook(scaled)
    assert Target(model).body.form == "layers"


def test_a_body_of_other_parts_is_called_as_it_is() -> None:
    sizes = {"vocab_size": 96, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)  # type: ignore[arg-type]
    )
    assert Target(model.eval()).body.form == "whole"


def test_a_body_whose_layers_take_other_arguments_is_called_as_it_is(
    make_model: MakeModel,
) -> None:
    model = own(make_model("llama"))

    class Telling(type(model.base_model)):  # type: ignore[misc]
        """Tells its layers more than others do."""

        def forward(self, **given: Any) -> Any:
            return super().forward(**given, more=1)

    layer = model.base_model.layers[2]
    forward = layer.forward
    layer.forward = lambda hidden, more, **given: forward(hidden, **given)
    model.base_model.__class__ = Telling
    assert Target(model).body.form == "whole"


@pytest.mark.parametrize("rope", ["default", "linear", "llama3", "yarn", "dynamic"])
def test_tables_say_what_the_model_says(rope: str) -> None:
    parameters = {"rope_type": rope, "rope_theta": 1e4, "factor": 2.0}
    if rope == "llama3":
        parameters |= {
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        rope_parameters=parameters,
    )
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    rotary = model.base_model.rotary_emb
    table = RotaryTable(rotary)
    positions = torch.tensor([[3, 0, 31, 31]])
    for dtype, capacity in ((torch.float32, 32), (torch.bfloat16, 32), (torch.float32, 40)):
        hidden = torch.empty(1, 4, 48, dtype=dtype)
        for found, expected in zip(
            table(hidden, positions, capacity), rotary(hidden, position_ids=positions), strict=True
        ):
            assert found.dtype == dtype
            torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_a_table_is_made_once_and_of_no_inference_mode(make_model: MakeModel) -> None:
    """A text decoded in inference mode leaves nothing that training trips over."""
    rotary: Any = make_model("llama").base_model.rotary_emb
    calls: list[int] = []

    class Counted:
        rope_type = "default"

        def __call__(self, hidden: Tensor, position_ids: Tensor) -> Any:
            calls.append(position_ids.numel())
            return rotary(hidden, position_ids=position_ids)

    table = RotaryTable(Counted())
    with torch.inference_mode():
        hidden = torch.empty(1, 2, 48)
        for _ in range(3):
            table(hidden, torch.tensor([[1, 2]]), 64)
    assert calls == [64]
    cos, _ = table(torch.empty(1, 2, 48), torch.tensor([[1, 2]]), 10)
    (cos * torch.ones(12, requires_grad=True)).sum().backward()  # type: ignore[no-untyped-call]
    assert calls == [64]
