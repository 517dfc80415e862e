"""The trial at load: what it finds, how it tells rounding from a fault, and what it costs."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CohereConfig, GraniteConfig, PreTrainedModel
from transformers.models.gemma2 import Gemma2Config

from adaeagle import Target
from adaeagle.models.output_head import OutputHead, forms

MakeModel = Callable[..., PreTrainedModel]
Change = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def broken_trunk(model: PreTrainedModel, change: Change) -> Iterator[None]:
    """The trunk's arguments pass through `change`, those of plain whole-text forwards too."""
    trunk: Any = model.base_model
    forward = trunk.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **change(kwargs))

    trunk.forward = changed
    yield
    trunk.forward = forward


def without_mask(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "attention_mask": None}


def without_positions(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "position_ids": None}


def with_later_tokens(arguments: dict[str, Any]) -> dict[str, Any]:
    """Siblings see each other: the mask ends with the text."""
    mask = arguments.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 4:
        arguments = {**arguments, "attention_mask": torch.zeros_like(mask)}
    return arguments


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("change", [without_mask, without_positions, with_later_tokens])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_broken_tree_forward_is_refused(
    family: str, change: Change, dtype: torch.dtype, make_model: MakeModel
) -> None:
    model = copy.deepcopy(make_model(family)).to(dtype)  # type: ignore[arg-type]
    Target(model)
    rule = f"type '{family}' is not served: its logits on a tree are off"
    with broken_trunk(model, change), pytest.raises(NotImplementedError, match=rule):
        Target(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_layers", [2, 24])
def test_rounding_is_no_fault(num_layers: int, dtype: torch.dtype, make_model: MakeModel) -> None:
    for seed in range(3):
        model = make_model("llama", num_layers=num_layers, seed=seed, std=0.1)
        assert Target(copy.deepcopy(model).to(dtype)).dtype is dtype  # type: ignore[arg-type]


def test_weights_that_are_no_numbers_are_refused(make_model: MakeModel) -> None:
    model: Any = copy.deepcopy(make_model("llama"))
    nn.init.constant_(model.lm_head.weight, torch.nan)
    with pytest.raises(NotImplementedError, match="head's by nan"):
        Target(model)


def test_the_trial_is_a_few_short_forwards(make_model: MakeModel) -> None:
    model: Any = copy.deepcopy(make_model("llama"))
    lengths: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    Target(model)
    assert len(lengths) <= 10
    assert sum(lengths) <= 100


def test_a_context_must_be_known(make_model: MakeModel) -> None:
    model: Any = copy.deepcopy(make_model("llama"))
    model.config.max_position_embeddings = 0
    assert Target(model, max_length=40).max_length == 40
    with pytest.raises(ValueError, match="max_length must be given, 'llama' states no context"):
        Target(model)
    model.config.max_position_embeddings = 64
    with pytest.raises(ValueError, match=r"max_length must be in 2\.\.64, got 65"):
        Target(model, max_length=65)


def test_forms_of_an_output_head() -> None:
    """The fullest form first; numbers of 1 and of None make none."""
    linear = nn.Linear(2, 3)
    assert list(forms(linear, Gemma2Config(final_logit_softcapping=None))) == [OutputHead(linear)]
    assert list(forms(linear, Gemma2Config(final_logit_softcapping=30.0))) == [
        OutputHead(linear, soft_cap=30.0),
        OutputHead(linear),
    ]
    assert list(forms(linear, GraniteConfig(logits_scaling=8.0))) == [
        OutputHead(linear, factor=8.0),
        OutputHead(linear, divisor=8.0),
        OutputHead(linear),
    ]
    assert list(forms(linear, GraniteConfig(logits_scaling=1.0))) == [OutputHead(linear)]
    assert next(forms(linear, CohereConfig(logit_scale=0.5))) == OutputHead(linear, factor=0.5)


def test_an_unknown_output_head_is_refused(make_model: MakeModel) -> None:
    model: Any = copy.deepcopy(make_model("llama"))
    forward = model.forward

    def squared(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits**3
        return output

    model.forward = squared
    with pytest.raises(NotImplementedError, match="its logits are off its scaled, capped output"):
        Target(model)
