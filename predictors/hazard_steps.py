"""A trained `Hazard` as arrays: asked between draft forwards, it must take microseconds.

Between two forwards every call, into NumPy or torch, costs some 5 microseconds whatever its size,
two to four times what it does in a loop, since the forwards clear the caches. So calls are few: a
draft is judged as a whole when it is asked about, and what are a few numbers a token is plain
Python.
Shapes: P rounds, K tokens of the longest chain, N drafted tokens, M tokens looked ahead, S scalars,
V vocabulary, D feature size, H hidden size and one more, which is always 1 and carries biases.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from predictors.hazard import LEAST_LOG_PROB, LEAST_PATH_LOG_PROB, Hazard, matched_scalars
from predictors.in_numpy import Floats, array, folded
from predictors.repeats import MOST, Repeat, repeats


@dataclass(frozen=True, slots=True)
class Known:
    """What is known before rounds."""

    contexts: Floats  # [P, H]
    repeats: list[Repeat]  # [P]

    def take(self, rows: Sequence[int]) -> "Known":
        """Some of the rounds."""
        return Known(self.contexts[rows], [self.repeats[row] for row in rows])


class Law(NamedTuple):
    """What is known of a chain after some of its tokens."""

    survival: float  # the probability that all drafted tokens are accepted
    ahead: list[float]  # [M] of each of the next tokens, given that all before it are


class HazardSteps:
    """The network's layers as arrays, scales of inputs folded into them.

    Args:
        predictor: trained.
    """

    def __init__(self, predictor: Hazard) -> None:
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
        self._mix = _wider(np.vstack((array(mix.weight).T, array(mix.bias) + step_bias)))
        self._mix[-1, -1] = 1
        self._token = _wider(array(predictor.token.to_table()))
        last = predictor.last
        self._last = -np.vstack((array(last.weight).T, array(last.bias)))  # odds against

    def begin(self, features: Tensor, token_ids: Tensor, recent: Sequence[Sequence[int]]) -> Known:
        """Encodes features [P, D], pending tokens [P] and the last tokens of texts [P]."""
        hidden = features.float().cpu().numpy() @ self._feature
        hidden += self._pending.take(token_ids.tolist(), axis=0)
        found = repeats(recent, self._num_tokens)
        hidden += self._matched.take([repeat.length for repeat in found], axis=0)
        contexts = np.maximum(hidden, 0, out=hidden) @ self._mix
        return Known(contexts, found)

    def after(
        self, known: Known, log_probs: Sequence[list[float]], token_ids: Sequence[list[int]]
    ) -> list[Law]:
        """What is known after drafted tokens, [P][N] each, at least one.

        Raises:
            ValueError: features were NaN or infinite.
        """
        chains = zip(known.repeats, log_probs, token_ids, strict=True)
        scalars = [list(_scalars(repeat, said, ids)) for repeat, said, ids in chains]
        odds = self.odds(known.contexts[:, None], scalars, token_ids).tolist()
        laws = []
        for row in odds:
            survival = math.prod([chance(place[0]) for place in row])
            laws.append(Law(survival, [chance(odd) for odd in row[-1][1:]]))
        return laws

    def odds(self, contexts: Floats, scalars: Sequence[Any], token_ids: Sequence[Any]) -> Floats:
        """Log-odds against tokens, and against each of the M that follow if all before are right.

        Args:
            contexts: [..., H] of rounds; shapes broadcast.
            scalars: [..., S] nested lists.
            token_ids: [...] likewise.

        Returns:
            [..., 1 + M].

        Raises:
            ValueError: features were NaN or infinite.
        """
        hidden = np.array(scalars, np.float32) @ self._step
        hidden += contexts
        hidden += self._token.take(token_ids, axis=0)
        found: Floats = np.maximum(hidden, 0, out=hidden) @ self._last
        if not math.isfinite(found.sum()):
            raise ValueError("features must be finite, got NaN or infinity")
        return found


def _scalars(
    repeat: Repeat, log_probs: Sequence[float], token_ids: Sequence[int]
) -> Iterator[list[float]]:
    """`chain_scalars` of the tokens of one chain, [N, S]."""
    goes_along, matched, path = min(repeat.length, 1), math.log1p(repeat.length), 0.0
    told = zip(log_probs, token_ids, repeat.following, strict=False)
    for depth, (log_prob, token_id, expected) in enumerate(told, 1):
        own = max(log_prob, LEAST_LOG_PROB)
        path = max(path + own, LEAST_PATH_LOG_PROB)
        goes_along = goes_along if token_id == expected else 0
        chances = math.exp(own), math.exp(path)
        yield [own, path, *chances, goes_along, goes_along * matched, depth, math.sqrt(depth)]


def chance(odds_against: float) -> float:
    """The probability of log-odds against something."""
    return 1 / (1 + math.exp(min(odds_against, 700.0)))  # beyond it overflows


def _wider(rows: Floats, one: int = 0) -> Floats:
    """Rows [.., H - 1] with a last column of `one` each."""
    return np.pad(rows, ((0, 0), (0, 1)), constant_values=one)
