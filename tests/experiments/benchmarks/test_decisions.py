"""The benchmark of decisions from end to end at toy size, and its shares."""

import json
from pathlib import Path

import pytest

from adaeagle.registry import get_policy
from experiments.benchmarks.decisions import POLICIES, Spent, added, bare, main, summary


def test_it_measures_live_and_replayed_hooks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    specs = ["chain(length=3)", "hf_heuristic(start=2)", "chain(length=3, stop=cost_aware)"]
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
    chain, alone, learned = saved["policies"].values()
    assert "added" not in chain["live"] | alone["live"]
    for part in ("live", "replay"):
        expected = learned[part]["share"] - chain[part]["share"]
        assert learned[part]["added"] == pytest.approx(expected, abs=2e-4)
    assert chain["replay"]["hooks_ms"] < learned["replay"]["hooks_ms"]


def test_every_rule_stands_beside_its_shape() -> None:
    shapes = [spec for spec in POLICIES if bare(spec) is None]
    assert shapes == ["chain(length=12)", "eagle2(depth=6, width=4, nodes=16)"]
    assert {bare(spec) for spec in POLICIES if spec not in shapes} == set(shapes)
    for spec in POLICIES:
        get_policy(spec)


def test_what_a_rule_adds_is_the_difference_of_shares() -> None:
    """Over the same prompts: what is common to both does not make it unsure."""
    shape = [Spent(0.01, 1.0, 9, 27), Spent(0.09, 1.0, 9, 27)]
    found = added([Spent(0.03, 1.0, 9, 27), Spent(0.11, 1.0, 9, 27)], shape)
    assert found == {"added": 0.02, "added_ci95": [0.02, 0.02]}


def test_a_share_is_of_totals() -> None:
    found = summary([Spent(0.001, 0.1, 10, 40), Spent(0.003, 0.1, 30, 120)])
    assert found["share"] == 0.02
    assert found["ci95"] == [0.01, 0.03]
    assert (found["hooks_ms"], found["round_ms"], found["num_rounds"]) == (0.1, 5.0, 40)
    assert found["decision"] == 0.005
