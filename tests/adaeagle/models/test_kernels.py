"""Kernels chosen per shape: the same products, and the plain ones wherever they must serve."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

import adaeagle
from adaeagle import EagleDrafter, Target
from adaeagle.drafters.eagle_head import EagleHead
from adaeagle.models import kernels
from adaeagle.models.kernels import MODES, ROWS, OneProduct, Product, install
from predictors.draft_models.eagle import default_head_config

needs_onednn = pytest.mark.skipif(kernels._operators() is None, reason="torch without oneDNN")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    kernels._operators.cache_clear()
    kernels._quicker.cache_clear()


def _layers(*outputs: int, bias: bool = True) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(24, size, bias=bias) for size in outputs]


def _count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every product that oneDNN computes from now on."""
    found = kernels._operators()
    assert found is not None
    product, reorder = found
    seen: list[int] = []

    def counted(rows: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(rows.numel() // rows.shape[-1])
        result: torch.Tensor = product(rows, *rest)
        return result

    monkeypatch.setattr(kernels, "_operators", lambda: (counted, reorder))
    return seen


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (5,), (40,), (2, 3)])
def test_products_side_by_side_are_those_of_each_layer(
    shape: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _count(monkeypatch)
    layers = _layers(16, 8, 8, bias=bias)
    product = Product([layer._parameters for layer in layers])
    product.pack("onednn")
    rows = torch.randn(*shape, 24)
    with torch.no_grad():
        for found, layer in zip(product(rows), layers, strict=True):
            torch.testing.assert_close(found, layer(rows), rtol=1e-5, atol=1e-5)
    assert len(seen) == 1


@needs_onednn
def test_plain_products_serve_where_reordered_weights_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = _count(monkeypatch)
    [layer] = _layers(16)
    product = OneProduct(layer)
    product.pack("onednn")
    rows = torch.randn(5, 24)
    assert torch.equal(product(rows), layer(rows))  # a gradient may be asked for
    with torch.no_grad():
        product(rows)
        assert seen == [5]
        assert product(rows[:0]).shape == (0, 16)
        layer.weight.mul_(2)  # changed in place
        assert torch.equal(product(rows), layer(rows))
        product.pack("onednn")
        layer.weight.data = torch.ones(16, 24)  # of other memory
        assert torch.equal(product(rows), layer(rows))
        product.pack("onednn")
        layer.weight = nn.Parameter(torch.zeros(16, 24))  # replaced
        assert torch.equal(product(rows), layer(rows))
    assert seen == [5]


@needs_onednn
def test_weights_of_inference_mode_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _count(monkeypatch)
    with torch.inference_mode():
        [layer] = _layers(16)
        product = OneProduct(layer)
        product.pack("onednn")
        rows = torch.randn(5, 24)
        torch.testing.assert_close(product(rows), layer(rows))
    assert seen == [5]


@needs_onednn
def test_auto_takes_the_quicker_kernel_for_each_number_of_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With times of our own: of 1 row oneDNN is quicker as 4, of 2 by too little."""
    times = {1: [2.0, 0.8], 2: [1.0, 0.97], 4: [0.5], 8: [0.9], 16: [1.0], 32: [3.0]}
    measured = iter(times.values())
    monkeypatch.setattr(kernels, "_seconds", lambda *runs: [1.0, *next(measured)])
    monkeypatch.setattr(kernels, "MEASURED_BYTES", 1)
    seen = _count(monkeypatch)
    [layer] = _layers(16)
    product = OneProduct(layer)
    product.pack("auto")
    with torch.no_grad():
        for num_rows in range(1, 40):
            rows = torch.randn(num_rows, 24)
            torch.testing.assert_close(product(rows), layer(rows), rtol=1e-5, atol=1e-5)
    assert seen == [4, 4, 4, 5, 6, 7, 8]
    OneProduct(_layers(16)[0]).pack("auto")  # the same shape is not measured again
    assert tuple(times) == ROWS


@needs_onednn
def test_padded_rows_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_quicker", lambda *shape: {1: 4, 2: 4, 4: 4})
    seen = _count(monkeypatch)
    layers = _layers(16, 8)
    product = Product([layer._parameters for layer in layers])
    product.pack("auto")
    with torch.no_grad():
        for shape in ((1, 24), (3, 24), (1, 1, 24), (2, 1, 24)):
            rows = torch.randn(shape)
            for found, layer in zip(product(rows), layers, strict=True):
                torch.testing.assert_close(found, layer(rows), rtol=1e-5, atol=1e-5)
    assert seen == [4] * 4


@pytest.mark.parametrize("fault", ["missing", "wrong", "raises"])
def test_operators_that_do_not_answer_as_they_should_are_left_alone(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            if fault == "missing":
                raise AttributeError(name)
            if fault == "raises":
                return _raise
            if name == "_linear_pointwise":
                return lambda rows, weight, bias, *rest: F.linear(rows, weight)  # no bias
            return lambda weight, num_rows: weight

    kernels._operators.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", Faulty())
    [layer] = _layers(16)
    product = OneProduct(layer)
    product.pack("onednn")
    with torch.no_grad():
        rows = torch.randn(3, 24)
        assert torch.equal(product(rows), layer(rows))


def _raise(*arguments: Any) -> None:
    raise RuntimeError("another signature")


@needs_onednn
def test_target_and_head_say_the_same_with_either_kernel(
    make_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _count(monkeypatch)
    model = make_model("llama")
    texts = []
    for mode in ("torch", "onednn"):
        target = Target(model, kernels=mode)
        torch.manual_seed(0)
        drafter = EagleDrafter(EagleHead(default_head_config(target)), target)
        seen.clear()
        out = adaeagle.generate(target, drafter, "chain(length=3)", [1, 2, 3], max_new_tokens=16)
        texts.append((out.token_ids, [r.num_accepted for r in out.rounds]))
        assert (len(seen) > 0) == (mode == "onednn")
    assert texts[0] == texts[1]


def test_small_models_keep_the_bits_of_transformers(
    make_model: Callable[..., PreTrainedModel], tmp_path: Any
) -> None:
    make_model("llama").save_pretrained(tmp_path)
    assert Target.from_pretrained(str(tmp_path)).kernels == "torch"
    assert Target.from_pretrained(str(tmp_path), kernels="onednn").kernels == "onednn"


@needs_onednn
def test_an_installed_kernel_leaves_weights_and_gradients_as_they_were() -> None:
    network = nn.Sequential(*_layers(24, 24))
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    install(network, "onednn")
    network(torch.randn(2, 24)).sum().backward()
    assert network[0].weight.grad is not None
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, before[name])


def test_another_mode_is_refused(make_model: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(ValueError, match=f"kernels must be one of {', '.join(MODES)}, got 'fast'"):
        Target(make_model("llama"), kernels="fast")  # type: ignore[arg-type]
