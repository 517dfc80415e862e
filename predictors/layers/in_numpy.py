"""Layers of trained networks in NumPy, scales of inputs folded into them.

A rule asks about one text's few numbers at a time: calls into torch would take longer than the
arithmetic. Between two forwards a call into NumPy is dear too, 5 to 30 microseconds whatever its
size and `ndarray.dot` least, so that of one row products alone are NumPy's: the rest is plain
Python.
Shapes: P rounds side by side, D feature size, H hidden size, O outputs; `...` is any shape in
front.
"""

import math
from collections.abc import Sequence
from operator import add, mul
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from adaeagle.policy import Context
from adaeagle.tree import DraftTree
from predictors.base import Predictor
from predictors.layers.context import ContextLayer, ResidualBlocks, Standardize
from predictors.layers.token_table import TokenTable

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Layer = tuple[Floats, Floats]
"""Weight [inputs, outputs] and bias [outputs]."""

NOT_FINITE = "features must be finite, got NaN or infinity"


def array(values: Tensor) -> npt.NDArray[Any]:
    """The values themselves, where they are on the host."""
    if values.is_cpu and not values.requires_grad:  # asked between forwards: `force` takes longer
        return values.numpy()
    return values.numpy(force=True)


def new_of(tree: DraftTree, start: int, *names: str) -> list[Any]:
    """Columns' rows from `start` on; of the latest level alone without those before it.

    Returns:
        [P, M] each, or what is the same of all.
    """
    if tree.levels and start == len(tree) - math.prod(tree.levels[-1]):
        return [
            tree.num_levels if name == "depths" else array(tree.of_level(-1, name))
            for name in names
        ]
    return [array(getattr(tree, name))[:, start:] for name in names]


def dense(layer: nn.Linear) -> Layer:
    return np.ascontiguousarray(array(layer.weight).T), array(layer.bias)


def folded(scale: Standardize, layer: nn.Linear) -> Layer:
    """A layer on inputs that are scaled first."""
    weight, bias = dense(layer)
    mean, deviation = (array(scale.get_buffer(name)) for name in ("mean", "deviation"))
    weight = weight / deviation[:, None]
    return weight, bias - mean @ weight


def silu(values: Floats) -> Floats:
    half = 0.5 * values  # x / (1 + exp(-x)), which would overflow
    found: Floats = np.tanh(half)
    found += 1
    found *= half
    return found


def log_sigmoid(values: Floats) -> Floats:
    found: Floats = -np.logaddexp(0, -values)
    return found


class Blocks:
    """`ResidualBlocks`, trained."""

    def __init__(self, blocks: ResidualBlocks) -> None:
        self._layers = [dense(layer) for layer in blocks.layers]  # type: ignore[arg-type]

    def __call__(self, hidden: Floats) -> Floats:
        """[..., H] → [..., H]."""
        for weight, bias in self._layers:
            hidden = hidden + silu(hidden @ weight + bias)
        return hidden


class FirstOfRow:
    """A network's first layer, for one row at a time.

    Args:
        layer: scales of inputs folded into it.
    """

    def __init__(self, layer: Layer) -> None:
        self._weight = np.vstack(layer)  # [inputs and a 1, H]
        self._bias: list[float] = layer[1].tolist()

    def add(self, more: Sequence[float]) -> None:
        """Adds [H] to what it says of every row, in place of what was added before."""
        self._weight[-1] = list(map(add, self._bias, more))

    def __call__(self, inputs: Sequence[float]) -> list[float]:
        """[inputs] → [H]."""
        values: list[float] = np.array((*inputs, 1), np.float32).dot(self._weight).tolist()
        return values


class OneRow:
    """What follows a trained network's first layer, for one row at a time.

    Args:
        blocks: residual ones between first and last layer, if any.
        last: layer.
    """

    def __init__(self, blocks: ResidualBlocks | None, last: nn.Linear) -> None:
        layers = () if blocks is None else blocks.layers
        self._blocks = [dense(layer) for layer in layers]  # type: ignore[arg-type]
        self._last = list(zip(last.weight.tolist(), last.bias.tolist(), strict=True))

    def __call__(self, first: Sequence[float]) -> list[float]:
        """What the first layer says, [H] → [O]."""
        hidden = _silu_of_row(first)
        for weight, bias in self._blocks:
            more = np.array(hidden, np.float32).dot(weight) + bias
            hidden = list(map(add, hidden, _silu_of_row(more.tolist())))
        return [sum(map(mul, hidden, weights)) + bias for weights, bias in self._last]


def _silu_of_row(values: Sequence[float]) -> list[float]:
    return [0.5 * value * (1 + math.tanh(0.5 * value)) for value in values]


class FirstLayer:
    """A trained predictor's `ContextLayer`, on what is known before rounds.

    Args:
        predictor: that the layer is of.
        layer: of it.
    """

    def __init__(self, predictor: Predictor, layer: ContextLayer) -> None:
        self._predictor = predictor
        self._weight, self._bias = folded(layer.scale, layer.feature)
        self._last = None if layer.last is None else _table(layer.last)
        self._pending = None if layer.pending is None else _table(layer.pending)

    def one(self, context: Context) -> list[float]:
        """[H] of a single round.

        Raises:
            ValueError: as for many.
        """
        values: list[float] = self._hidden(context)[0].tolist()
        if not math.isfinite(sum(values)):
            raise ValueError(NOT_FINITE)
        return values

    def __call__(self, context: Context) -> Floats:
        """[P, H].

        Raises:
            ValueError: there are no features, or of another size, or not finite.
        """
        hidden = self._hidden(context)
        if not np.isfinite(hidden).all():
            raise ValueError(NOT_FINITE)
        return hidden

    def _hidden(self, context: Context) -> Floats:
        hidden: Floats = array(self._features(context)).dot(self._weight)
        hidden += self._bias
        if self._last is not None:
            hidden += self._last.take(context.last_token_ids.tolist(), axis=0)
        if self._pending is not None:
            hidden += self._pending.take(context.token_ids.tolist(), axis=0)
        return hidden

    def _features(self, context: Context) -> Tensor:
        """[P, D] float32."""
        if context.features is None:
            raise ValueError(
                f"features must be given to predictor {self._predictor.kind}, got none"
            )
        self._predictor.check_feature_size(context.features.shape[1])
        return context.features.float()


def _table(layer: TokenTable) -> Floats:
    return array(layer.to_table())
