"""Two ways of making the same text, timed in turns so that a machine that slows down slows both."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaeagle import Target
from experiments.benchmarks.engine_models import Models

Maker = Callable[[list[int]], list[int]]
"""Makes a text from a prompt."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text and when its target forwards ended."""

    token_ids: list[int]
    seconds: float
    ends: list[float]

    @property
    def round_seconds(self) -> float:
        return float(np.median(np.diff(self.ends[1:])))

    @property
    def num_forwards(self) -> int:
        return len(self.ends)


def timed(target: Target, make: Maker, prompt: list[int]) -> Text:
    ends: list[float] = []
    last: Any = target.model.base_model.norm  # what both sides run once a forward
    handle = last.register_forward_hook(lambda *_: ends.append(time.perf_counter()))
    start = time.perf_counter()
    token_ids = make(prompt)  # on the host at the end, so nothing is left to wait for
    seconds = time.perf_counter() - start
    handle.remove()
    return Text(token_ids, seconds, ends)


def paired(models: Models, first: Maker, second: Maker, num_pairs: int) -> dict[str, Any]:
    """How many times faster `first` is than `second`: in turn, the order swapped each time."""
    pairs = []
    for number in range(-1, num_pairs):  # the first pair warms up
        prompt = models.prompts[number % len(models.prompts)]
        sides = (first, second) if number % 2 else (second, first)
        found = {make: timed(models.target, make, prompt) for make in sides}
        if number >= 0:
            pairs.append((found[first], found[second]))
    return {
        "text": summary([b.seconds / a.seconds for a, b in pairs]),
        "round": summary([b.round_seconds / a.round_seconds for a, b in pairs]),
        "ms_per_round": [
            round(1000 * float(np.median([text.round_seconds for text in side])), 2)
            for side in zip(*pairs, strict=True)
        ],
        "tokens_per_forward": [
            round(
                sum(len(text.token_ids) for text in side) / sum(text.num_forwards for text in side),
                2,
            )
            for side in zip(*pairs, strict=True)
        ],
        "equal_texts": sum(a.token_ids == b.token_ids for a, b in pairs),
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).choice(values, size=(2000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return {
        "median": round(float(np.median(values)), 3),
        "ci95": [round(float(low), 3), round(float(high), 3)],
        "n": len(values),
    }
