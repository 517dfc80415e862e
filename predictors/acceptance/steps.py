"""Trained `SpecDecPP`, `Disco` and `C2T` networks in NumPy: asked after every draft forward.

One text's chain is asked in plain Python, where calls would take longer than the arithmetic.
Shapes: P rounds side by side, M new nodes of each, C choices of the draft, S inputs, H hidden size.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from adaeagle.policy import Context
from adaeagle.tree import DraftTree
from predictors.acceptance.scorer import Odds
from predictors.data.nodes import LEAST_LOG_PROB
from predictors.layers.in_numpy import (
    Blocks,
    FirstLayer,
    FirstOfRow,
    Floats,
    OneRow,
    dense,
    folded,
    new_of,
    silu,
)

if TYPE_CHECKING:
    from predictors.acceptance.c2t import C2T
    from predictors.acceptance.disco import Disco
    from predictors.acceptance.specdec_pp import SpecDecPP


class SpecDecPPOdds(Odds):
    """The layers of a trained `SpecDecPP`."""

    def __init__(self, predictor: "SpecDecPP") -> None:
        context = predictor.context
        self._context = None if context is None else FirstLayer(predictor, context)
        self._first = folded(predictor.scale, predictor.first)
        self._blocks = Blocks(predictor.blocks)
        self._last = dense(predictor.last)
        self._encoded: Floats | list[float] | None = None  # [P, 1, H]; [H] of one round
        self._first_of_row = FirstOfRow(self._first)
        self._one_row = OneRow(predictor.blocks, predictor.last)

    def begin(self, context: Context) -> None:
        if self._context is None:
            return
        if len(context.token_ids) > 1:
            self._encoded = self._context(context)[:, None]
            return
        self._encoded = self._context.one(context)
        self._first_of_row.add(self._encoded)

    def of(self, tree: DraftTree, start: int) -> Floats:
        weight, bias = self._first
        hidden = _specdec_inputs(tree, start) @ weight + bias
        if self._encoded is not None:
            hidden = hidden + np.asarray(self._encoded, np.float32)
        weight, bias = self._last
        odds: Floats = (self._blocks(silu(hidden)) @ weight + bias)[..., 0]
        return odds

    def of_newest(self, tree: DraftTree) -> float:
        log_prob, path = _newest(tree, "log_probs"), _newest(tree, "path_log_probs")
        inputs = [
            math.exp(log_prob),
            math.exp(path),
            max(log_prob, LEAST_LOG_PROB),
            max(path, LEAST_LOG_PROB),
            _newest(tree, "entropies"),
            tree.num_levels,
            *map(math.exp, _newest(tree, "confidences")),
        ]
        [odds] = self._one_row(self._first_of_row(inputs))
        return odds


class DiscoOdds(Odds):
    """The layers of a trained `Disco`."""

    def __init__(self, predictor: "Disco") -> None:
        first, _, last = predictor.network
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        self._first = folded(predictor.scale, first)
        self._last = dense(last)
        self._first_of_row = FirstOfRow(self._first)
        self._one_row = OneRow(None, last)

    def begin(self, context: Context) -> None:
        pass

    def of(self, tree: DraftTree, start: int) -> Floats:
        weight, bias = self._first
        hidden = silu(_disco_inputs(tree, start) @ weight + bias)
        weight, bias = self._last
        odds: Floats = (hidden @ weight + bias)[..., 0]
        return odds

    def of_newest(self, tree: DraftTree) -> float:
        confidences = map(math.exp, _newest(tree, "confidences"))
        inputs = [*confidences, _newest(tree, "entropies"), tree.num_levels]
        [odds] = self._one_row(self._first_of_row(inputs))
        return odds


class C2TScores:
    """The layers of a trained `C2T`."""

    def __init__(self, predictor: "C2T") -> None:
        first, _, last = predictor.network
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        self._first = folded(predictor.scale, first)
        self._last = dense(last)

    def of(self, tree: DraftTree, start: int) -> Floats:
        """The log-odds that nodes from row `start` on are accepted with all above them."""
        weight, bias = self._first
        hidden = silu(_c2t_inputs(tree, start) @ weight + bias)
        weight, bias = self._last
        odds: Floats = (hidden @ weight + bias)[..., 0]
        return odds


def _newest(tree: DraftTree, name: str) -> Any:
    """What a column says of the last node of one text's chain."""
    [[value]] = tree.of_level(-1, name).tolist()
    return value


def _specdec_inputs(tree: DraftTree, start: int) -> Floats:
    """[P, M, S] in the order of `predictors.acceptance.specdec_pp`."""
    names = "log_probs", "path_log_probs", "entropies", "depths", "confidences"
    log_probs, path, entropies, depths, confidences = new_of(tree, start, *names)
    inputs = np.empty((*log_probs.shape, 6 + confidences.shape[2]), dtype=np.float32)
    inputs[..., 0] = np.exp(log_probs)
    inputs[..., 1] = np.exp(path)
    inputs[..., 2] = np.maximum(log_probs, LEAST_LOG_PROB)
    inputs[..., 3] = np.maximum(path, LEAST_LOG_PROB)
    inputs[..., 4] = entropies
    inputs[..., 5] = depths
    np.exp(confidences, out=inputs[..., 6:])
    return inputs


def _disco_inputs(tree: DraftTree, start: int) -> Floats:
    """[P, M, S] in the order of `predictors.acceptance.disco`."""
    confidences, entropies, depths = new_of(tree, start, "confidences", "entropies", "depths")
    inputs = np.empty((*confidences.shape[:2], confidences.shape[2] + 2), dtype=np.float32)
    np.exp(confidences, out=inputs[..., :-2])
    inputs[..., -2] = entropies
    inputs[..., -1] = depths
    return inputs


def _c2t_inputs(tree: DraftTree, start: int) -> Floats:
    """[P, M, S] in the order of `predictors.acceptance.c2t`."""
    path, entropies, depths = new_of(tree, start, "path_log_probs", "entropies", "depths")
    inputs = np.empty((*path.shape, 4), dtype=np.float32)
    inputs[..., 0] = np.exp(path)
    inputs[..., 1] = np.maximum(path, LEAST_LOG_PROB)
    inputs[..., 2] = entropies
    inputs[..., 3] = depths
    return inputs
