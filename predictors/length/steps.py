"""Trained length predictors in NumPy: asked once a round.

Shapes: P rounds side by side.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from adaeagle.policy import Context
from predictors.layers.context import live_batch
from predictors.layers.in_numpy import Blocks, FirstLayer, Floats, OneRow, array, dense, silu

if TYPE_CHECKING:
    from predictors.length.ldlp import LengthPredictor


class TorchLengths:
    """Lengths as the predictor itself tells them.

    Args:
        predictor: trained.
    """

    def __init__(self, predictor: "LengthPredictor") -> None:
        self._predictor = predictor

    @torch.no_grad()
    def __call__(self, context: Context) -> Floats:
        """[P], not rounded."""
        return array(self._predictor.lengths(live_batch(self._predictor, context)))


class LengthSteps:
    """The layers of a trained network whose outputs are a length, or a score for each length.

    Args:
        predictor: trained.
    """

    def __init__(self, predictor: "LengthPredictor") -> None:
        self._first = FirstLayer(predictor, predictor.first)
        self._blocks = Blocks(predictor.blocks)
        self._last = dense(predictor.last)
        self._one_row = OneRow(predictor.blocks, predictor.last)

    def __call__(self, context: Context) -> Floats:
        """[P], not rounded."""
        if len(context.token_ids) == 1:
            said = self._one_row(self._first.one(context))
            return np.array(said if len(said) == 1 else [np.argmax(said)], np.float32)
        weight, bias = self._last
        outputs: Floats = self._blocks(silu(self._first(context))) @ weight + bias
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs.argmax(1).astype("float32")
