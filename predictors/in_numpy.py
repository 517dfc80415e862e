"""Layers of trained networks in NumPy, scales of inputs folded into them.

A rule asks about one text's few numbers at a time: calls into torch would take longer than the
arithmetic.
Shapes: P rounds side by side, D feature size, H hidden size; `...` is any shape in front.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from adaeagle.policy import Context
from predictors.context_network import ContextLayer, ResidualBlocks, Standardize
from predictors.predictor import Predictor
from predictors.token_table import TokenTable

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Layer = tuple[Floats, Floats]
"""Weight [inputs, outputs] and bias [outputs]."""


def array(values: Tensor) -> npt.NDArray[Any]:
    """The values themselves, where they are on the host."""
    return values.numpy(force=True)


def dense(layer: nn.Linear) -> Layer:
    return np.ascontiguousarray(array(layer.weight).T), array(layer.bias)


def folded(scale: Standardize, layer: nn.Linear) -> Layer:
    """A layer on inputs that are scaled first."""
    weight, bias = dense(layer)
    mean, deviation = (array(scale.get_buffer(name)) for name in ("mean", "deviation"))
    weight = weight / deviation[:, None]
    return weight, bias - mean @ weight


def silu(values: Floats) -> Floats:
    half = 0.5 * values
    found: Floats = half + half * np.tanh(half)  # x / (1 + exp(-x)), which would overflow
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


class FirstLayer:
    """A trained predictor's `ContextLayer`, on what is known before rounds.

    Args:
        predictor: that the layer is of.
        layer: of it.
    """

    def __init__(self, predictor: Predictor, layer: ContextLayer) -> None:
        self._predictor = predictor
        self._feature = folded(layer.scale, layer.feature)
        self._last = None if layer.last is None else _table(layer.last)
        self._pending = None if layer.pending is None else _table(layer.pending)

    def __call__(self, context: Context) -> Floats:
        """[P, H].

        Raises:
            ValueError: there are no features, or of another size, or not finite.
        """
        if context.features is None:
            raise ValueError(
                f"features must be given to predictor {self._predictor.kind}, got none"
            )
        self._predictor.check_feature_size(context.features.shape[1])
        weight, bias = self._feature
        hidden: Floats = array(context.features.float()) @ weight + bias
        if not np.isfinite(hidden).all():
            raise ValueError("features must be finite, got NaN or infinity")
        if self._last is not None:
            hidden = hidden + self._last[array(context.last_token_ids)]
        if self._pending is not None:
            hidden = hidden + self._pending[array(context.token_ids)]
        return hidden


def _table(layer: TokenTable) -> Floats:
    return array(layer.to_table())
