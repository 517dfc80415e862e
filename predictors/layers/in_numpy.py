"""Layers of trained networks as arrays, scales of inputs folded into them."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from predictors.layers.context import Standardize

Floats = npt.NDArray[np.float32]
Layer = tuple[Floats, Floats]
"""Weight [inputs, outputs] and bias [outputs]."""

NOT_FINITE = "features must be finite, got NaN or infinity"


def array(values: Tensor) -> npt.NDArray[Any]:
    """The values on the host."""
    return values.numpy(force=True)


def folded(scale: Standardize, layer: nn.Linear) -> Layer:
    """A layer on inputs that are scaled first."""
    weight, bias = np.ascontiguousarray(array(layer.weight).T), array(layer.bias)
    mean, deviation = (array(scale.get_buffer(name)) for name in ("mean", "deviation"))
    weight = weight / deviation[:, None]
    return weight, bias - mean @ weight
