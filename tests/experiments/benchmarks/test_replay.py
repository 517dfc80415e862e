"""The replay benchmark from end to end at toy size, and its ratios."""

import json
from pathlib import Path

import pytest

from experiments.benchmarks.replay import BEAM, main, over, speed


def test_it_measures_both_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    specs = ["vanilla", "chain(length=3)", "hf_heuristic"]
    main(
        [
            *("--limit", "2", "--max-new-tokens", "12"),
            *("--policies", *specs, "--out", str(out)),
        ]
    )
    saved = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == saved
    assert list(saved["a_live_over_replay"]) == specs
    for found in saved["a_live_over_replay"].values():
        assert found["ratio"] > 1
        assert found["ci95"][0] <= found["ci95"][1]
    assert list(saved["b_recording_over_plain"]) == [BEAM, "default"]
    assert saved["num_positions"] <= saved["num_texts"] * 11


def test_a_replay_stands_for_all_texts() -> None:
    found = speed([1.0, 1.0, 4.0], [0.01, 0.02, 0.09])
    assert (found["live_seconds"], found["replay_seconds"], found["ratio"]) == (6.0, 0.02, 300.0)
    assert found["ci95"][0] <= 300 <= found["ci95"][1]


def test_totals_are_compared() -> None:
    found = over([3.0, 1.0], [1.0, 1.0])
    assert found["ratio"] == 2.0
    assert found["ci95"] == [1.0, 3.0]
