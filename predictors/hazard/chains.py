"""A trained `HazardPredictor` asked about growing chains.

A token is judged once, when its chain is asked about next, together with the other new ones.
Shapes: P rounds side by side, A of them asked about, K tokens of the longest chain, N drafted
tokens, M tokens looked ahead, S scalars.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from predictors.hazard.network import ECHOES, LEAST_LOG_PROB, LEAST_PATH_LOG_PROB
from predictors.hazard.steps import HazardSteps, Known, chance
from predictors.hazard.suffix_match import LEAST, MOST_ECHO, Repeat, echo


class Distribution(NamedTuple):
    """What is known of a chain after some of its tokens."""

    survival: float  # the probability that all drafted tokens are accepted
    against: list[float]  # [M] log-odds against each of the next, given that all before it are


class _Chain:
    """What is known of one round's chain, as far as it was judged."""

    __slots__ = (
        "_against",
        "_echo",
        "_following",
        "_goes_along",
        "_matched",
        "_path",
        "_survival",
        "_text",
        "length",
    )

    def __init__(self, repeat: Repeat) -> None:
        self._following = repeat.following
        self._goes_along = min(repeat.length, 1)
        self._matched = math.log1p(repeat.length)
        self._text = repeat.text
        self._echo = max(repeat.length, LEAST - 1)
        self._path = 0.0
        self._survival = 1.0
        self._against: list[float] = []
        self.length = 0

    def grown(self, log_probs: Sequence[float], token_ids: Sequence[int]) -> list[Sequence[float]]:
        """`chain_scalars` of its new tokens, of those up to K."""
        scalars: list[Sequence[float]] = []
        last = min(len(log_probs), len(self._following))
        for place in range(self.length, last):
            own = max(log_probs[place], LEAST_LOG_PROB)
            self._path = path = max(self._path + own, LEAST_PATH_LOG_PROB)
            if token_ids[place] != self._following[place]:
                self._goes_along = 0
            self._text += chr(token_ids[place])
            most = min(self._echo + 1, MOST_ECHO)
            # What goes along with a repeat is a longer one.
            self._echo = most if self._goes_along else echo(self._text, most)
            goes, depth = self._goes_along, place + 1
            told = own, path, math.exp(own), math.exp(path), goes, goes * self._matched
            scalars.append((*told, depth, math.sqrt(depth), *ECHOES[self._echo]))
        self.length = last
        return scalars

    def told(self, odds: list[float]) -> None:
        """Takes in what `HazardSteps.odds` says of its next new token."""
        self._survival *= chance(odds[0])
        self._against = odds[1:]

    def distribution(self) -> Distribution:
        return Distribution(self._survival, self._against)


class HazardChains:
    """Growing chains, each of their tokens judged once.

    Args:
        steps: the network.
        known: of the rounds, before they draft.
    """

    def __init__(self, steps: HazardSteps, known: Known) -> None:
        self._steps = steps
        self._contexts = known.contexts
        self._chains = [_Chain(repeat) for repeat in known.repeats]

    def after(
        self,
        asked: Sequence[int],
        log_probs: Sequence[Sequence[float]],
        token_ids: Sequence[Sequence[int]],
    ) -> list[Distribution]:
        """What is known of rounds [A] after drafted tokens, [P][N] each, at least one.

        Args:
            asked: which rounds.
            log_probs: of the chains of the last call, or the same grown.
            token_ids: likewise.

        Raises:
            ValueError: features were NaN or infinite.
        """
        rows: list[int] = []
        scalars: list[Sequence[float]] = []
        new_ids: list[int] = []
        for row in asked:
            new = self._chains[row].grown(log_probs[row], token_ids[row])
            end = self._chains[row].length
            scalars += new
            new_ids += token_ids[row][end - len(new) : end]
            rows += [row] * len(new)
        if rows:  # else they are asked about once more
            contexts = self._contexts if len(self._contexts) == 1 else self._contexts[rows]
            odds = self._steps.odds(contexts, scalars, new_ids)
            for row, place in zip(rows, odds, strict=True):
                self._chains[row].told(place)
        return [self._chains[row].distribution() for row in asked]
