"""Sweeps of tiny models that have been confirmed, and records made to order."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from adaeagle.bench.records import ArmRecord, PromptRecord
from adaeagle.cost.model import CostModel
from experiments.cli import main
from experiments.confirm.leaderboard import Evidence

HOSTILE = "</style><script>document.title='broken'</script>"


def command(*arguments: object) -> tuple[int, str, str]:
    with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()) as complained:
        code = main([str(argument) for argument in arguments])
    return code, said.getvalue(), complained.getvalue()


@pytest.fixture(scope="session")
def swept(folders: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prompts, their trace, a cost table and a sweep: of chains, and of one rule."""
    home = tmp_path_factory.mktemp("swept")
    lines: list[dict[str, Any]] = [
        {"id": f"{source} {n}", "source": source, "turns": [f"What is {n} {source}?"]}
        for source in (HOSTILE, "far")
        for n in range(4)
    ]
    (home / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    CostModel.linear(constant=0.001, draft=0.002, verify=0.010, node=0.0005).save(
        home / "cost.json"
    )
    models = ("--target", folders.target, "--drafter", folders.head, "--device", "cpu")
    told = ("--prompts", "prompts.jsonl", "--max-new-tokens", 14)
    with chdir(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.sweep.running._figures", lambda *_: {})
        found = [
            command("trace", *models, *told, "--threads", 1, "--out", "trace"),
            command(
                *("sweep", "--trace", "trace", "--cost", "cost.json", "--out", "sweep"),
                *("--policies", "chain", "confidence", "--trials", 5),
            ),
        ]
    for code, _, complained in found:
        assert code == 0, complained
    return home


def arm(tokens: int, seconds: float) -> ArmRecord:
    return ArmRecord(
        num_tokens=tokens,
        seconds=seconds,
        **dict.fromkeys(("prefill_seconds", "draft_seconds", "verify_seconds"), 0.0),
        **dict.fromkeys(("policy_seconds", "other_seconds"), 0.0),
        depth=[2],
        num_drafted=[2],
        num_verified=[2],
        num_accepted=[1],
        num_emitted=[2],
    )


def records_of(seconds: Mapping[str, Sequence[float]]) -> list[PromptRecord]:
    """Ten tokens a prompt, of two sources in turn; seconds of each prompt by policy."""
    [num_prompts] = {len(own) for own in seconds.values()}
    return [
        PromptRecord(
            id=str(number),
            category="",
            source=("near", "far")[number % 2],
            num_turns=1,
            order=list(seconds),
            arms={name: arm(10, own[number]) for name, own in seconds.items()},
            divergences=[],
            policy_states="",
        )
        for number in range(num_prompts)
    ]


@pytest.fixture
def evidence() -> Callable[..., Evidence]:
    """From seconds live, seconds replayed (or the same) and speeds of fixed drafts."""

    def make(
        live: Mapping[str, Sequence[float]],
        replayed: Mapping[str, Sequence[float]] | None = None,
        fixed: float = 100.0,
        dp: float = 150.0,
    ) -> Evidence:
        oracle = {
            "families": {"chain": {"baseline": "fixed", "fixed": fixed, "dp": dp}},
            "family_of": dict.fromkeys(live, "chain"),
            "recovered": dict.fromkeys(live, 0.25),
        }
        return Evidence(records_of(live), records_of(replayed or live), oracle, "source")

    return make
