"""A trained `Hazard` in NumPy: asked after every draft forward, it must take microseconds.

For one text at a time calls into torch would cost more than the arithmetic.
Shapes: P rounds, M tokens looked ahead, S scalars, V vocabulary, D feature size, H hidden size.
"""

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from predictors.context_network import Standardize
from predictors.hazard import LEAST_LOG_PROB, LEAST_PATH_LOG_PROB, NUM_SCALARS, Hazard
from predictors.token_table import TokenTable

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class HazardSteps:
    """The network's layers as arrays, scales of inputs folded into them.

    Args:
        predictor: trained.
    """

    def __init__(self, predictor: Hazard) -> None:
        context = predictor.context
        assert context.pending is not None
        self._feature = _folded(context.scale, context.feature)
        self._pending = _table(context.pending)
        self._mix = _layer(predictor.mix)
        self._step = _folded(predictor.scale, predictor.step)
        self._token = _table(predictor.token)
        self._inner = _layer(predictor.inner)
        self._last = _layer(predictor.last)

    def begin(self, features: Tensor, token_ids: Tensor) -> "HazardRound":
        """Encodes what is known before rounds: features [P, D] and pending tokens [P].

        Raises:
            ValueError: features are NaN or infinite.
        """
        weight, bias = self._feature
        hidden = features.float().cpu().numpy() @ weight + bias
        if not np.isfinite(hidden).all():
            raise ValueError("features must be finite, got NaN or infinity")
        hidden = np.maximum(hidden + self._pending[token_ids.cpu().numpy()], 0)
        weight, bias = self._mix
        return HazardRound(self, hidden @ weight + bias)

    def odds(self, context: Floats, scalars: Floats, said: Floats | None) -> Floats:
        """Probabilities [P, 1 + M] after a token.

        Args:
            context: [P, H] encodings.
            scalars: [P, S].
            said: [P, H] of the tokens, see `tokens`; None: nothing is drafted yet.
        """
        weight, bias = self._step
        hidden = scalars @ weight
        hidden += bias
        hidden += context
        if said is not None:
            hidden += said
        np.maximum(hidden, 0, out=hidden)
        weight, bias = self._inner
        more = hidden @ weight
        more += bias
        hidden += np.maximum(more, 0, out=more)
        weight, bias = self._last
        odds = hidden @ weight
        odds += bias
        np.negative(odds, out=odds)
        np.exp(odds, out=odds)
        odds += 1
        found: Floats = np.reciprocal(odds, out=odds)
        return found

    def tokens(self, token_ids: Ints) -> Floats:
        """What the network makes of tokens [P]: [P, H]."""
        return self._token[token_ids]


class HazardRound:
    """What is known of chains side by side after some of their tokens; `after` one more.

    Args:
        steps: the network.
        context: [P, H] encoded.
        before: what was known one token before; None: nothing is drafted yet.
        log_probs: [P] of the last token.
        token_ids: [P] the last token.
    """

    survival: Floats
    """[P] the probability that all drafted tokens are accepted."""
    ahead: Floats
    """[P, M] of each of the next tokens, given that all before it are."""

    def __init__(
        self,
        steps: HazardSteps,
        context: Floats,
        before: "HazardRound | None" = None,
        log_probs: Floats | None = None,
        token_ids: Ints | None = None,
    ) -> None:
        self._steps = steps
        self._context = context
        if before is None or log_probs is None or token_ids is None:
            self._last = self._path = self._least = np.zeros(len(context), np.float32)
            self._depth = 0
            self.survival = np.ones(len(context), np.float32)
            self.ahead = self._odds(self._last, None)[:, 1:]
            return
        self._last = np.maximum(log_probs, LEAST_LOG_PROB)
        self._path = np.maximum(before._path + self._last, LEAST_PATH_LOG_PROB)
        self._least = np.minimum(before._least, self._last)
        self._depth = before._depth + 1
        odds = self._odds(before._last, steps.tokens(token_ids))
        self.survival = before.survival * odds[:, 0]
        self.ahead = odds[:, 1:]

    def after(self, log_probs: Floats, token_ids: Ints) -> "HazardRound":
        """What is known after the next token of each chain, [P] and [P]."""
        return HazardRound(self._steps, self._context, self, log_probs, token_ids)

    def _odds(self, before: Floats, said: Floats | None) -> Floats:
        scalars = np.empty((len(before), NUM_SCALARS), np.float32)
        scalars[:, 0] = self._last
        np.exp(self._last, out=scalars[:, 1])
        scalars[:, 2] = self._path
        np.exp(self._path, out=scalars[:, 3])
        scalars[:, 4] = before
        scalars[:, 5] = self._least
        scalars[:, 6] = self._depth
        scalars[:, 7] = self._depth**0.5
        return self._steps.odds(self._context, scalars, said)


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
