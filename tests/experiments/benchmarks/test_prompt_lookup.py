"""The benchmark of prompt lookup from end to end at toy size."""

import json
from pathlib import Path

import pytest

from experiments.benchmarks.prompt_lookup import main


def test_both_make_the_same_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    found = main(["--limit", "2", "--tokens", "16", "--out", str(out)])
    assert json.loads(out.read_text()) == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["equal_texts"] == found["num_texts"] == 2
    low, high = found["speedup_of_totals_ci95"]
    assert low <= found["speedup_of_totals"] <= high
    ours, theirs = found["forwards"]  # theirs look up before the first token as well
    assert theirs <= ours <= 2 * theirs
