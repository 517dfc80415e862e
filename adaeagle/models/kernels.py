"""Which kernel multiplies by a layer's weights: torch's own, or oneDNN's with weights reordered.

Verifying a few tokens reads the same weights as a plain step, so it should take little longer; a
float32 `linear` of 2 to 16 rows takes twice as long on a CPU all the same. oneDNN's product on
weights that were reordered once does not. Which is quicker is measured for each shape when a model
is loaded, and kept for the process.

Reordered weights are a copy. The originals of a checkpoint in the model's own dtype stay in its
mapped file: nothing reads them while texts are decoded, and the system takes their memory back.

Both operators of oneDNN are private to torch: where they are missing, or answer otherwise than a
plain product does, the plain product serves. Its sums run in another order, so that logits differ
in their last bits.

Shapes: N rows, D inputs, O outputs of a layer.
"""

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Mode = Literal["auto", "torch", "onednn"]
MODES: tuple[Mode, ...] = get_args(Mode)

ROWS = (1, 2, 4, 8, 16, 32)
"""Numbers of rows that are measured; what lies between is decided by the next one."""

PADDED = 4
"""Fewer rows than this may be multiplied as so many: oneDNN's product of one row is slower."""

MEASURED_BYTES = 1 << 26
"""Of weights a measurement goes through, so that they come from memory as in a model."""

LEAST_GAIN = 0.05
"""By which share of torch's time oneDNN must be quicker, for a copy of the weights."""

SMALLEST_MODEL = 1 << 23
"""Parameters from which on `auto` measures: a smaller model's weights lie in the CPU's cache, where
there is little to gain, and its bits stay those of `transformers`."""

DTYPES = (torch.float32, torch.bfloat16)

Parameters = dict[str, Any]
"""A module's own `_parameters`, so that replaced ones are found."""


class Product:
    """The products of one input with the weights of layers side by side.

    Args:
        layers: the parameters of each, with a weight [O, D] and a bias or None.
    """

    def __init__(self, layers: Sequence[Parameters]) -> None:
        self._layers = list(layers)
        self._packed: _Packed | None = None

    def pack(self, mode: Mode) -> None:
        """Reorders the weights where `mode` says so, or where that is quicker for some rows."""
        self._packed = _pack(self._layers, mode)

    def __call__(self, rows: Tensor) -> list[Tensor]:
        """[..., D] → [..., O] of each layer."""
        packed = self._packed
        if packed is not None and packed.serves(rows, self._layers):
            return packed(rows)
        return [F.linear(rows, layer["weight"], layer["bias"]) for layer in self._layers]


class OneProduct:
    """A `Product` of one layer, called like the module."""

    def __init__(self, module: nn.Linear) -> None:
        self._product = Product([module._parameters])

    def pack(self, mode: Mode) -> None:
        """See `Product`."""
        self._product.pack(mode)

    def __call__(self, rows: Tensor) -> Tensor:
        """[..., D] → [..., O]."""
        return self._product(rows)[0]


class _Packed:
    """Reordered weights of layers.

    Args:
        layers: see `Product`.
        quicker: of `ROWS`, those that are multiplied here, and as how many rows each.
    """

    def __init__(self, layers: Sequence[Parameters], quicker: dict[int, int]) -> None:
        weight, self._bias, self._sizes = _side_by_side(layers)
        self._sources = [layer["weight"] for layer in layers]
        self._versions = [_version(weight) for weight in self._sources]
        self._dtype = weight.dtype
        self._quicker = quicker
        self._product, reorder = _operators()  # type: ignore[misc]  # asked before
        self._weight: Tensor = reorder(weight.contiguous(), max(quicker))

    def serves(self, rows: Tensor, layers: Sequence[Parameters]) -> bool:
        """Whether these rows are multiplied here: the weights are those reordered, and no
        gradient is asked for."""
        num_rows = rows.numel() // rows.shape[-1]
        return (
            num_rows > 0
            and _measured(num_rows) in self._quicker
            and rows.dtype == self._dtype
            and rows.device.type == "cpu"
            and not torch.is_grad_enabled()
            and all(map(_is_same, layers, self._sources, self._versions))
        )

    def __call__(self, rows: Tensor) -> list[Tensor]:
        num_rows = rows.numel() // rows.shape[-1]
        least = self._quicker[_measured(num_rows)] if num_rows < PADDED else num_rows
        out = _padded(self._product, rows, self._weight, self._bias, least)
        return [out] if len(self._sizes) == 1 else list(torch.split(out, self._sizes, dim=-1))


def _padded(
    product: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, num_rows: int
) -> Tensor:
    """oneDNN's product of [..., D], multiplied as `num_rows` rows at least."""
    flat = rows.reshape(-1, rows.shape[-1])
    missing = num_rows - len(flat)
    if missing > 0:
        flat = torch.cat((flat, flat[:1].expand(missing, -1)))
    out: Tensor = product(flat, weight, bias, "none", [], "")
    return out[: out.shape[0] - max(0, missing)].view(*rows.shape[:-1], -1)


def _is_same(layer: Parameters, source: Tensor, version: tuple[int, int]) -> bool:
    return layer["weight"] is source and _version(source) == version


def _version(weight: Tensor) -> tuple[int, int]:
    """Changes with every change in place, and where a weight lies elsewhere.

    Tensors of inference mode do not count their changes.
    """
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _measured(num_rows: int) -> int:
    """The measured number of rows that decides for `num_rows`."""
    return next((rows for rows in ROWS if rows >= num_rows), ROWS[-1])


def check_mode(mode: str) -> None:
    """Raises ValueError unless `mode` is one of `MODES`."""
    if mode not in MODES:
        raise ValueError(f"kernels must be one of {', '.join(MODES)}, got {mode!r}")


def mode_of(mode: Mode, model: nn.Module) -> Mode:
    """`mode` for a model: "torch" where `auto` need not measure."""
    if mode != "auto":
        return mode
    num_parameters = sum(weight.numel() for weight in model.parameters())
    return "auto" if num_parameters >= SMALLEST_MODEL else "torch"


def install(module: nn.Module, mode: Mode) -> None:
    """Has every linear layer in `module` choose its kernel; for networks that are ours.

    Under gradients they stay as they are.
    """
    for layer in module.modules():
        if type(layer) is nn.Linear:
            product = OneProduct(layer)
            product.pack(mode)
            layer.forward = product  # type: ignore[method-assign, assignment]


def _pack(layers: Sequence[Parameters], mode: Mode) -> _Packed | None:
    weights = [layer["weight"] for layer in layers]
    dtype = weights[0].dtype
    has_bias = {layer["bias"] is not None for layer in layers}
    if (
        mode == "torch"
        or any(weight.device.type != "cpu" for weight in weights)
        or dtype not in DTYPES
        or len(has_bias) > 1
        or _operators() is None
    ):
        return None
    quicker = {rows: rows for rows in ROWS}
    if mode == "auto":
        size = (sum(weight.shape[0] for weight in weights), weights[0].shape[1])
        quicker = _quicker(size, dtype, torch.get_num_threads())
    return _Packed(layers, quicker) if quicker else None


def _side_by_side(layers: Sequence[Parameters]) -> tuple[Tensor, Tensor | None, list[int]]:
    weights = [layer["weight"].detach() for layer in layers]
    sizes = [weight.shape[0] for weight in weights]
    if len(layers) == 1:
        bias = layers[0]["bias"]
        return weights[0], None if bias is None else bias.detach(), sizes
    bias = None
    if layers[0]["bias"] is not None:
        bias = torch.cat([layer["bias"].detach() for layer in layers])
    return torch.cat(weights), bias, sizes


@cache
def _operators() -> tuple[Any, Any] | None:
    """oneDNN's product and its reordering of weights; None where they do not serve."""
    try:
        product = torch.ops.mkldnn._linear_pointwise
        reorder = torch.ops.mkldnn._reorder_linear_weight
        generator = torch.Generator().manual_seed(0)
        weight, bias = (torch.randn(*size, generator=generator) for size in ((48, 32), (48,)))
        rows = torch.randn(3, 32, generator=generator)
        with torch.no_grad():
            found = product(rows, reorder(weight, 8), bias, "none", [], "")
        torch.testing.assert_close(found, F.linear(rows, weight, bias), rtol=1e-4, atol=1e-4)
    except (AttributeError, AssertionError, RuntimeError, TypeError, NotImplementedError):
        return None
    return product, reorder


@cache
def _quicker(size: tuple[int, int], dtype: torch.dtype, num_threads: int) -> dict[int, int]:
    """The numbers of rows, of `ROWS`, for which reordered weights of [O, D] are quicker.

    Returns:
        as how many rows each is multiplied.
    """
    product, reorder = _operators()  # type: ignore[misc]  # asked before
    found = {}
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(size, generator=generator).to(dtype)
        copies = max(1, MEASURED_BYTES // (weight.numel() * weight.element_size()))
        plain = [weight.clone() for _ in range(copies)]
        packed = [reorder(each, ROWS[-1]) for each in plain]
        for num_rows in ROWS:
            rows = torch.ones(num_rows, size[1], dtype=dtype)
            forms = sorted({num_rows, max(num_rows, PADDED)})
            runs = [partial(_plain_run, rows, plain)]
            runs += [partial(_padded_run, product, rows, packed, form) for form in forms]
            torch_seconds, *ours = _seconds(*runs)
            least = min(ours)
            if least < (1 - LEAST_GAIN) * torch_seconds:
                found[num_rows] = forms[ours.index(least)]
    return found


def _plain_run(rows: Tensor, weights: Sequence[Tensor]) -> None:
    for weight in weights:
        F.linear(rows, weight)


def _padded_run(product: Any, rows: Tensor, weights: Sequence[Tensor], num_rows: int) -> None:
    for weight in weights:
        _padded(product, rows, weight, None, num_rows)


def _seconds(*runs: Callable[[], None]) -> list[float]:
    """The least time of each, taken in turns so that all see the same machine."""
    best = [float("inf")] * len(runs)
    for turn in range(5):
        for index, run in enumerate(runs):
            begun = time.perf_counter()
            run()
            if turn > 0:  # the first warms up
                best[index] = min(best[index], time.perf_counter() - begun)
    return best
