"""A trained `Hazard` in NumPy: asked between draft forwards, it must take microseconds.

For one text at a time calls into torch would cost more than the arithmetic, and between two
forwards every call costs twice what it does in a loop: so calls are few, and a draft is judged as a
whole when it is asked about, not token by token.
Shapes: P rounds, K tokens of the longest chain, N drafted tokens, M tokens looked ahead, S scalars,
V vocabulary, D feature size, H hidden size, W tokens looked back.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from predictors.context_network import Standardize
from predictors.hazard import LEAST_LOG_PROB, LEAST_PATH_LOG_PROB, Hazard, depth_scalars
from predictors.repeats import repeats
from predictors.token_table import TokenTable

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What is known before rounds."""

    places: Floats  # [P, K + 1, H] the context, and where in a chain a token stands
    following: Ints  # [P, K] what followed where the text's end has been said before
    is_repeated: Floats  # [P, 2] 1 where it has been, and the logarithm of how long a match

    def take(self, rows: Ints) -> "Encoded":
        """Some of the rounds."""
        return Encoded(self.places[rows], self.following[rows], self.is_repeated[rows])


@dataclass(frozen=True, slots=True)
class Law:
    """What is known of chains after some of their tokens."""

    survival: Floats  # [P] the probability that all drafted tokens are accepted
    ahead: Floats  # [P, M] of each of the next tokens, given that all before it are


class HazardSteps:
    """The network's layers as arrays, scales of inputs folded into them.

    Args:
        predictor: trained.
    """

    def __init__(self, predictor: Hazard) -> None:
        context = predictor.context
        assert context.pending is not None
        self._num_tokens = predictor.k_max
        self._feature = _folded(context.scale, context.feature)
        self._pending = _table(context.pending)
        self._mix = _layer(predictor.mix)
        weight, bias = _folded(predictor.scale, predictor.step)
        depths = depth_scalars(predictor.k_max + 1).numpy()
        self._step = weight[: -depths.shape[1]]
        self._depths = depths @ weight[-depths.shape[1] :] + bias
        self._token = _table(predictor.token)
        self._inner = _layer(predictor.inner)
        weight, bias = _layer(predictor.last)
        self._last = -weight, -bias  # odds against

    def begin(self, features: Tensor, token_ids: Tensor, recent: Tensor) -> Encoded:
        """Encodes features [P, D], pending tokens [P] and the last tokens of texts [P, W].

        Raises:
            ValueError: features are NaN or infinite.
        """
        weight, bias = self._feature
        hidden = features.float().cpu().numpy() @ weight + bias
        if not np.isfinite(hidden).all():
            raise ValueError("features must be finite, got NaN or infinity")
        hidden = np.maximum(hidden + self._pending[token_ids.cpu().numpy()], 0)
        weight, bias = self._mix
        hidden = hidden @ weight + bias
        lengths, following = repeats(recent.numpy(), self._num_tokens)
        is_repeated = np.stack((lengths > 0, np.log1p(lengths)), axis=1, dtype=np.float32)
        return Encoded(hidden[:, None] + self._depths, following, is_repeated)

    def after(self, known: Encoded, log_probs: Floats, token_ids: Ints) -> Law:
        """What is known after drafted tokens, [P, N] each."""
        num_tokens = log_probs.shape[1]
        scalars = self._scalars(known, log_probs, token_ids)
        hidden = scalars @ self._step
        hidden += known.places[:, : num_tokens + 1]
        hidden[:, 1:] += self._token[token_ids]
        np.maximum(hidden, 0, out=hidden)
        weight, bias = self._inner
        more = hidden @ weight
        more += bias
        hidden += np.maximum(more, 0, out=more)
        weight, bias = self._last
        odds = hidden @ weight
        odds += bias
        np.exp(odds, out=odds)
        odds += 1
        found: Floats = np.reciprocal(odds, out=odds)
        return Law(np.multiply.reduce(found[:, 1:, 0], axis=1), found[:, -1, 1:])

    def _scalars(self, known: Encoded, log_probs: Floats, token_ids: Ints) -> Floats:
        """`chain_scalars` up to those of depth, [P, N + 1, S]."""
        num_rounds, num_tokens = log_probs.shape
        scalars = np.zeros((num_rounds, num_tokens + 1, len(self._step)), np.float32)
        own, path = scalars[:, 1:, 0], scalars[:, 1:, 1]
        np.maximum(log_probs, LEAST_LOG_PROB, out=own)
        np.add.accumulate(own, axis=1, out=path)
        np.maximum(path, LEAST_PATH_LOG_PROB, out=path)
        np.exp(scalars[:, :, :2], out=scalars[:, :, 2:4])
        goes_along = scalars[:, :, 4:]
        goes_along[:, 0] = 1
        said = token_ids == known.following[:, :num_tokens]
        np.multiply.accumulate(said[:, :, None], axis=1, out=goes_along[:, 1:])
        goes_along *= known.is_repeated[:, None]
        return scalars


Layer = tuple[Floats, Floats]


def _array(values: Tensor) -> Floats:
    found: Floats = values.detach().float().cpu().numpy()
    return found


def _layer(layer: nn.Linear) -> Layer:
    """Weight [in, out] and bias [out]."""
    return np.ascontiguousarray(_array(layer.weight).T), _array(layer.bias)


def _folded(scale: Standardize, layer: nn.Linear) -> Layer:
    """A layer that takes what `scale` would be given."""
    weight, bias = _layer(layer)
    mean, deviation = _array(scale.get_buffer("mean")), _array(scale.get_buffer("deviation"))
    weight = weight / deviation[:, None]
    return weight, bias - mean @ weight


def _table(table: TokenTable) -> Floats:
    return _array(table.to_table())
