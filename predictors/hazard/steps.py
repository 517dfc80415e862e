"""A trained `HazardPredictor` as arrays: asked between draft forwards, it must take microseconds.

Between two forwards every call, into NumPy or torch, costs some 5 to 30 microseconds whatever its
size, two to four times what it does in a loop, since the forwards clear the caches. So calls are
few, and those that take the least: `ndarray.dot` of two dimensions takes a third of what `@` does.
What are a few numbers a token is plain Python.
Shapes: P rounds, K tokens of the longest chain, B tokens asked about, M tokens looked ahead,
S scalars, V vocabulary, D feature size, H hidden size and one more, which is always 1 and carries
biases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from predictors.hazard.network import HazardPredictor, matched_scalars
from predictors.hazard.suffix_match import MOST, Repeat, repeats
from predictors.layers.in_numpy import NOT_FINITE, Floats, array, folded


@dataclass(frozen=True, slots=True)
class Known:
    """What is known before rounds."""

    contexts: Floats  # [P, H]
    repeats: list[Repeat]  # [P]


class HazardSteps:
    """The network's layers as arrays, scales of inputs folded into them.

    Args:
        predictor: trained.
    """

    def __init__(self, predictor: HazardPredictor) -> None:
        context = predictor.context
        assert context.pending is not None
        self._num_tokens = predictor.k_max
        weight, bias = folded(context.scale, context.feature)
        self._feature = _wider(weight)
        self._pending = _wider(array(context.pending.to_table()) + bias, one=1)
        step, step_bias = folded(predictor.scale, predictor.step)
        self._step = _wider(step)
        matched = matched_scalars(torch.arange(MOST + 1))
        self._matched = _wider(array(predictor.matched(matched)))
        mix = predictor.mix
        mixed = np.vstack((array(mix.weight).T, array(mix.bias) + step_bias))
        self._mix = np.ascontiguousarray(_wider(mixed))
        self._mix[-1, -1] = 1
        self._token = _wider(array(predictor.token.to_table()))
        last = predictor.last
        against = -np.vstack((array(last.weight).T, array(last.bias)))
        self._last = np.ascontiguousarray(against)

    def begin(self, features: Tensor, token_ids: Tensor, recent: Sequence[Sequence[int]]) -> Known:
        """Encodes features [P, D], pending tokens [P] and the last tokens of texts [P]."""
        hidden: Floats = array(features.float()).dot(self._feature)
        hidden += self._pending.take(token_ids.tolist(), axis=0)
        found = repeats(recent, self._num_tokens)
        hidden += self._matched.take([repeat.length for repeat in found], axis=0)
        return Known(np.maximum(hidden, 0, out=hidden).dot(self._mix), found)

    def odds(
        self, contexts: Floats, scalars: Sequence[Sequence[float]], token_ids: Sequence[int]
    ) -> list[list[float]]:
        """Log-odds against tokens, and against each of the M that follow if all before are right.

        Args:
            contexts: [B, H], or [1, H] of one round.
            scalars: [B, S], at least one.
            token_ids: [B].

        Returns:
            [B, 1 + M].

        Raises:
            ValueError: features were NaN or infinite.
        """
        hidden: Floats = np.array(scalars, np.float32).dot(self._step)
        hidden += contexts
        hidden += self._token.take(token_ids, axis=0)
        found: list[list[float]] = np.maximum(hidden, 0, out=hidden).dot(self._last).tolist()
        if not math.isfinite(sum(map(sum, found))):
            raise ValueError(NOT_FINITE)
        return found


def chance(odds_against: float) -> float:
    """The probability of log-odds against something."""
    return 1 / (1 + math.exp(min(odds_against, 700.0)))  # beyond it overflows


def _wider(rows: Floats, one: int = 0) -> Floats:
    """Rows [.., H - 1] with a last column of `one` each."""
    return np.pad(rows, ((0, 0), (0, 1)), constant_values=one)
