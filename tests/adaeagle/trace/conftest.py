"""Made-up recorded texts, and folders of them."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from adaeagle.data.splits import TEST, TUNE
from adaeagle.trace.envelope import Envelope
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.manifest import Manifest, plan_shards
from adaeagle.trace.text import RecordedText

PROMPT_IDS = ["a", "b/1", "c", "ü d", "e"]
MANIFEST = Manifest(
    target="tiny",
    target_weights="0123",
    drafter="head",
    drafter_kind="eagle",
    drafter_weights="4567",
    dtype="float32",
    vocab_size=50,
    device="cpu",
    prompts="five.jsonl",
    prompts_sha256="89ab",
    max_new_tokens=9,
    envelope=["chain(length=3)"],
    num_top=4,
    generation={"stop_token_ids": [2], "max_length": 64, "config": {}},
    versions={"torch": "2"},
    prompt_ids=PROMPT_IDS,
    shards=plan_shards(PROMPT_IDS, dict(zip(PROMPT_IDS, [TUNE, TEST] * 3, strict=False)), 2),
    recorded_on={"hardware": {"cpu": "one"}},
)


def random_envelope(
    token_ids: torch.Tensor, num_ranks: int, generator: torch.Generator
) -> Envelope:
    """Three levels of random nodes at every position; some say what the text says."""
    num_positions = len(token_ids) - 1
    envelope = Envelope(num_positions, num_ranks)
    positions = torch.arange(num_positions)
    parents, ranks = torch.full_like(positions, -1), torch.zeros_like(positions)
    for depth in range(1, 4):
        shape = (len(positions), num_ranks)
        said = torch.randint(50, shape, generator=generator)
        said[::2, 0] = token_ids[(positions[::2] + depth).clamp(max=num_positions)]
        log_probs = -torch.rand(shape, generator=generator).cumsum(1)
        entropies = torch.rand(len(positions), generator=generator)
        new = envelope.add(positions, parents, ranks, said, log_probs, entropies)
        parents = new.repeat_interleave(num_ranks)
        ranks = torch.arange(num_ranks).repeat(len(new))
        chosen = torch.rand(len(ranks), generator=generator) < 0.5
        positions = positions.repeat_interleave(num_ranks)[chosen]
        parents, ranks = parents[chosen], ranks[chosen]
    return envelope


def random_text(
    prompt_id: str,
    turn: int = 0,
    *,
    num_new: int = 7,
    num_ranks: int = 3,
    dtype: torch.dtype = torch.float32,
    has_draft_features: bool = False,
) -> RecordedText:
    """The same text each time for the same arguments."""
    seed = zlib.crc32(f"{prompt_id}/{turn}/{num_new}".encode())
    generator = torch.Generator().manual_seed(seed)
    num_prompt = 3 + seed % 4
    features = torch.randn(num_prompt + num_new - 1, 8, generator=generator).to(dtype)
    token_ids = torch.randint(50, (num_new,), generator=generator)
    return RecordedText(
        prompt_id=prompt_id,
        turn=turn,
        category="",
        source="made up",
        prompt_ids=torch.randint(50, (num_prompt,), generator=generator),
        token_ids=token_ids,
        limit=9,
        features=features,
        draft_features=torch.cat((features, -features), dim=1) if has_draft_features else None,
        top_token_ids=torch.randint(50, (num_new, 4), generator=generator),
        top_log_probs=-torch.rand(num_new, 4, generator=generator),
        envelope=random_envelope(token_ids, num_ranks, generator),
    )


@cache
def answers_to(prompt_id: str) -> list[RecordedText]:
    return [random_text(prompt_id, turn) for turn in range(2 if prompt_id == "c" else 1)]


@pytest.fixture
def make_text() -> Callable[..., RecordedText]:
    """`random_text`."""
    return random_text


@pytest.fixture
def manifest() -> Manifest:
    """Five prompts in three shards: `a`, `c` and `e` for tuning, `b/1` and `ü d` for the test."""
    return MANIFEST


@pytest.fixture
def answers() -> Callable[[str], list[RecordedText]]:
    """What is recorded of a prompt of `manifest`; `c` has two turns."""
    return answers_to


Collect = Callable[..., TraceFolder]


@pytest.fixture
def collect(answers: Callable[[str], list[RecordedText]]) -> Collect:
    """Records into a folder what is missing there, or some shards of it."""

    def run(path: Path, numbers: Iterable[int] | None = None, **changed: Any) -> TraceFolder:
        folder = TraceFolder.create(path, replace(MANIFEST, **changed))
        folder.discard_leftovers()
        for number in folder.missing if numbers is None else numbers:
            prompt_ids = folder.manifest.shards[number].prompt_ids
            folder.add(number, [text for each in prompt_ids for text in answers(each)])
        return folder

    return run


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a folder, hidden ones too, by its path in it."""

    def read(path: Path) -> dict[str, bytes]:
        files = (file for file in path.rglob("*") if file.is_file())
        return {str(file.relative_to(path)): file.read_bytes() for file in sorted(files)}

    return read


@pytest.fixture
def assert_same_text() -> Callable[[RecordedText, RecordedText], None]:
    """Every value of two texts is equal, kinds of numbers included."""

    def check(found: RecordedText, expected: RecordedText) -> None:
        for name in RecordedText.__slots__:
            one, other = getattr(found, name), getattr(expected, name)
            if isinstance(other, torch.Tensor):
                torch.testing.assert_close(one, other, rtol=0, atol=0)
            elif not isinstance(other, Envelope):
                assert one == other, name
        one, other = found.envelope, expected.envelope
        assert (one.num_nodes, one.num_ranks) == (other.num_nodes, other.num_ranks)
        for name in ("roots", "positions", "parents", "ranks", "entropies"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)
        for name in ("token_ids", "log_probs", "children"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)

    return check
