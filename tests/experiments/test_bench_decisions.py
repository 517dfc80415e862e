"""The benchmark of decisions from end to end at toy size, and its shares."""

import json
from pathlib import Path

import pytest

from experiments.bench_decisions import Spent, main, summary


def test_it_measures_live_and_replayed_hooks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    specs = ["chain(length=3)", "hf_heuristic(start=2)", "cost_aware"]
    main(
        [
            *("--limit", "2", "--max-new-tokens", "24"),
            *("--policies", *specs, "--out", str(out)),
        ]
    )
    saved = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == saved
    assert list(saved["policies"]) == specs
    for found in saved["policies"].values():
        for part in found.values():
            assert 0 < part["share"] < 1
            assert part["hooks_ms"] < part["round_ms"]
            assert part["num_rounds"] > 0
    chain, _, learned = saved["policies"].values()
    assert chain["replay"]["hooks_ms"] < learned["replay"]["hooks_ms"]


def test_a_share_is_of_totals() -> None:
    found = summary([Spent(0.001, 0.1, 10), Spent(0.003, 0.1, 30)])
    assert found["share"] == 0.02
    assert found["ci95"] == [0.01, 0.03]
    assert (found["hooks_ms"], found["round_ms"], found["num_rounds"]) == (0.1, 5.0, 40)
