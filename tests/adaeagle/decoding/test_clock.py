"""The stopwatch gives every moment to exactly one part."""

from types import SimpleNamespace

import pytest
import torch

from adaeagle.decoding.clock import RoundClock


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock reads, in order."""
    times: list[float] = []
    monkeypatch.setattr(
        "adaeagle.decoding.clock.time", SimpleNamespace(perf_counter=lambda: times.pop(0))
    )
    return times


def test_parts_add_up(ticks: list[float]) -> None:
    ticks += [10.0, 11.0, 13.0, 16.0, 20.0]
    watch = RoundClock(torch.device("cpu"))
    watch.ends("policy")
    watch.ends("draft")
    watch.ends("policy")
    watch.ends("verify")
    assert watch.peek() == {"draft": 2.0, "verify": 4.0, "policy": 4.0, "other": 0.0}


def test_looking_changes_nothing(ticks: list[float]) -> None:
    ticks += [0.0, 1.0, 5.0]
    watch = RoundClock(torch.device("cpu"))
    watch.ends("draft")
    assert watch.peek()["draft"] == 1.0
    watch.ends("other")
    assert watch.peek() == {"draft": 1.0, "verify": 0.0, "policy": 0.0, "other": 4.0}


def test_spans_are_told_one_by_one(ticks: list[float]) -> None:
    ticks += [0.0, 1.0, 3.0, 6.0]
    watch = RoundClock(torch.device("cpu"))
    assert watch.spans() == []
    watch.ends("draft")
    watch.ends("policy")
    watch.ends("draft")
    assert watch.spans() == [("draft", 1.0), ("policy", 2.0), ("draft", 3.0)]
