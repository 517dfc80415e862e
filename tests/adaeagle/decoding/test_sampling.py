"""The processed distribution is what `transformers` samples from."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from adaeagle import Target, generate
from adaeagle.decoding.sampling import Sampling


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.6},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 1.7, "top_k": 9, "top_p": 0.85},
        {"temperature": 0.4, "top_k": 300, "top_p": 0.05},
    ],
    ids=str,
)
def test_distribution_of_transformers(
    settings: dict[str, Any], make_model: Callable[..., Any]
) -> None:
    """Against the warpers that `generate(do_sample=True)` itself puts together."""
    model = make_model("llama")
    settings = {"top_k": 0, **settings}  # the default of `transformers` is 50
    config = GenerationConfig(do_sample=True, **settings)  # type: ignore[no-untyped-call]
    warpers = model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=1,
        encoder_input_ids=None,
        prefix_allowed_tokens_fn=None,
        logits_processor=None,
    )
    torch.manual_seed(0)
    logits = 3 * torch.randn(6, 96)
    expected = warpers(torch.zeros(6, 1, dtype=torch.int64), logits.clone()).softmax(-1)
    found = Sampling(**settings).log_probs(logits.view(2, 3, 96)).exp()
    torch.testing.assert_close(found.view(6, 96), expected)
    assert found.shape == (2, 3, 96)


def test_half_precision_logits_give_a_float32_distribution() -> None:
    distribution = Sampling(temperature=0.7).log_probs(torch.randn(2, 8).half())
    assert distribution.dtype == torch.float32
    torch.testing.assert_close(distribution.exp().sum(-1), torch.ones(2))


def test_logits_are_not_changed() -> None:
    logits = torch.randn(2, 8)
    before = logits.clone()
    Sampling(temperature=0.7, top_k=2, top_p=0.5).log_probs(logits)
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be >= 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be >= 0, got nan"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"top_k": -2}, "top_k must be >= 0, got -2"),
        ({"mode": "typical"}, "sampling must be one of .*'rejection'.*, got 'typical'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-38, 1e-45])
def test_a_temperature_near_0_is_the_greedy_choice(temperature: float) -> None:
    logits = torch.tensor([[3.0, 9.0, -2.0, 8.99], [1e4, 0.0, -1e4, 9.9e3]])
    probs = Sampling(temperature=temperature).log_probs(logits).exp()
    assert torch.equal(probs, torch.nn.functional.one_hot(logits.argmax(-1), 4).float())


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_that_are_no_numbers_are_refused(
    temperature: float, make_model: Callable[..., Any]
) -> None:
    model = copy.deepcopy(make_model("llama"))
    target = Target(model)
    model.lm_head.weight.data[5] = torch.nan
    with pytest.raises(ArithmeticError, match=r"must be numbers, got NaN in torch\.float32"):
        generate(target, None, "vanilla", [1, 2], temperature=temperature)
