"""A stopwatch that gives every moment of a round to exactly one part of it."""

import time
from typing import Literal

import torch

Part = Literal["draft", "verify", "policy", "other"]


class RoundClock:
    """Splits the time since its making into parts.

    On CUDA the parts are told apart by events on the current stream, so that measuring makes no
    device wait for the host; reading them waits once, at the end of the round.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._parts: list[Part] = []
        self._marks: list[torch.cuda.Event | float] = [self._now()]

    def _now(self) -> "torch.cuda.Event | float":
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def ends(self, part: Part) -> None:
        """What ran since the last mark was `part`."""
        self._parts.append(part)
        self._marks.append(self._now())

    def spans(self) -> list[tuple[Part, float]]:
        """What ran between each two marks, with its seconds; on CUDA, waits for the device once."""
        last = self._marks[-1]
        if isinstance(last, torch.cuda.Event):
            last.synchronize()
        between = zip(self._parts, self._marks, self._marks[1:], strict=False)
        return [(part, _elapsed(start, end)) for part, start, end in between]

    def peek(self) -> dict[Part, float]:
        """Seconds of each part so far."""
        seconds: dict[Part, float] = {"draft": 0.0, "verify": 0.0, "policy": 0.0, "other": 0.0}
        for part, spent in self.spans():
            seconds[part] += spent
        return seconds


def _elapsed(start: "torch.cuda.Event | float", end: "torch.cuda.Event | float") -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return float(start.elapsed_time(end)) / 1000
    assert isinstance(start, float)
    assert isinstance(end, float)
    return end - start
