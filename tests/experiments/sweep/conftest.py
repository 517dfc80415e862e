"""Traces made to order, with cost tables on which their best drafts are known."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from adaeagle.cost.model import CostModel
from adaeagle.data.splits import Split
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_folder, toy_trace
from adaeagle.trace.trace import Trace

NUM_TEXTS, LENGTH = 12, 30


class Made(NamedTuple):
    """A trace on disk and a cost table."""

    trace: Path
    cost: Path

    @property
    def options(self) -> tuple[object, ...]:
        """As the command takes them."""
        return ("--trace", self.trace, "--cost", self.cost)


def lengths(accepted: int, num_texts: int = NUM_TEXTS) -> list[list[int]]:
    """Of every position the text has the chain's first `accepted` tokens."""
    return [[accepted] * (LENGTH + number) for number in range(num_texts)]


@pytest.fixture
def make_trace() -> Callable[..., Trace]:
    """A trace in memory: (accepted tokens everywhere, number of texts)."""

    def make(accepted: int = 3, num_texts: int = NUM_TEXTS) -> Trace:
        texts = toy_trace(lengths(accepted, num_texts), k_max=16, beams=(3, 3))
        return Trace(texts, VOCAB_SIZE)

    return make


@pytest.fixture(scope="session", autouse=True)
def the_disk_is_trusted() -> Iterator[None]:
    """Waiting for it at every write is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def make_made(
    home: Path,
    accepted: int = 3,
    splits: Sequence[Split] | None = None,
    cost: CostModel | None = None,
    name: str = "trace",
    **changed: Any,
) -> Made:
    found = Made(home / name, home / f"{name}-cost.json")
    toy_folder(found.trace, toy_trace(lengths(accepted), k_max=16), splits, **changed)
    table = cost or CostModel.linear(constant=1e-3, draft=2e-3, verify=1e-2, node=1e-4)
    table.save(found.cost)
    return found


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Of every draft three tokens are accepted; a forward costs a fifth of a verification."""
    return make_made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Made]:
    """A trace on disk, its chains accepted to a depth: (depth, splits, cost, name, manifest)."""
    return partial(make_made, tmp_path)


@pytest.fixture(autouse=True)
def deciding_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hook takes on a busy machine is not what these tests are about."""
    monkeypatch.setattr(
        "experiments.sweep.scoring.time_hooks", lambda *_: torch.zeros(8, dtype=torch.float64)
    )


@pytest.fixture
def sweep(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `adaeagle sweep` on a made trace, its study in a journal, and draws nothing."""
    monkeypatch.setattr("experiments.sweep.running._figures", lambda *_: {})
    journal = f"journal:{tmp_path / 'journal'}"

    def run_sweep(made: Made, *arguments: object) -> Any:
        settings = ("--out", tmp_path / "out", "--storage", journal, "--json")
        return run("sweep", *made.options, *settings, *arguments)

    return run_sweep
