"""Two ways of making a text, timed in turns, and how much of it is spent in the models."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from adaeagle import EagleDrafter, ModelDrafter, Target
from adaeagle.drafters.base import Drafter
from experiments.benchmarks.engine_models import Models
from experiments.benchmarks.harness import summary

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
    sides_of_all = list(zip(*pairs, strict=True))
    return {
        "text": summary([b.seconds / a.seconds for a, b in pairs]),
        "round": summary([b.round_seconds / a.round_seconds for a, b in pairs]),
        "ms_per_round": [
            round(1000 * float(np.median([text.round_seconds for text in side])), 2)
            for side in sides_of_all
        ],
        "tokens_per_forward": [
            round(sum(len(t.token_ids) for t in side) / sum(len(t.ends) for t in side), 2)
            for side in sides_of_all
        ],
        "equal_texts": sum(a.token_ids == b.token_ids for a, b in pairs),
    }


@contextmanager
def forward_timer(target: Target, drafter: Drafter | None) -> Iterator[Callable[[], float]]:
    """Times every forward of target and drafter, output heads included.

    On CUDA it waits for the device around every forward, which makes the whole slower and the share
    of the host larger than it is; there, compare with the rounds of an unmeasured run.

    Yields:
        A function that returns the seconds in forwards since it was last called.
    """
    start = spent = 0.0

    def begin(*_: Any) -> None:
        nonlocal start
        start = _now()

    def end(*_: Any) -> None:
        nonlocal spent
        spent += _now() - start

    def take() -> float:
        nonlocal spent
        seconds, spent = spent, 0.0
        return seconds

    handles = []
    for module in _modules(target, drafter):
        handles.append(module.register_forward_pre_hook(begin))
        handles.append(module.register_forward_hook(end))
    try:
        yield take
    finally:
        for handle in handles:
            handle.remove()


def _modules(target: Target, drafter: Drafter | None) -> list[nn.Module]:
    def of(model: Target) -> list[nn.Module]:
        head = model.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        assert isinstance(head, nn.Module)
        return [model.body, head]

    if isinstance(drafter, EagleDrafter):
        return [*of(target), drafter.head]
    return of(target) + (of(drafter.model) if isinstance(drafter, ModelDrafter) else [])


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
