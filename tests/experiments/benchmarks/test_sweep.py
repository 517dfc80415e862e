"""The benchmark of sweeps from end to end, on a toy trace."""

import json
from pathlib import Path

import pytest

from adaeagle.cost.model import CostModel
from adaeagle.testing.toy_trace import toy_folder, toy_trace
from experiments.benchmarks.sweep import main


def test_it_measures_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_folder(tmp_path / "trace", toy_trace([[3] * 30] * 4, k_max=16))
    CostModel.linear(constant=1e-3, draft=2e-3, verify=1e-2).save(tmp_path / "cost.json")
    main(
        [
            *("--trace", str(tmp_path / "trace"), "--cost", str(tmp_path / "cost.json")),
            *("--policy", "chain", "--trials", "4", "--sampler", "random", "--processes", "1"),
            *("--out", str(tmp_path / "out.json")),
        ]
    )
    saved = json.loads((tmp_path / "out.json").read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == saved
    assert saved["num_trials"] == 4
    assert saved["best"].startswith("chain(")
    assert 0 < saved["median_trial_seconds"] <= saved["longest_trial_seconds"] < saved["seconds"]


def test_a_sweep_that_fails_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"must succeed, got exit codes \[2\]"):
        main(
            [
                *("--trace", str(tmp_path), "--cost", str(tmp_path / "cost.json")),
                *("--processes", "1"),
            ]
        )
