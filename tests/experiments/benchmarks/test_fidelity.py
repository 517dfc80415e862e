"""The fidelity experiment from end to end at toy size, and its statistics."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaeagle.trace.trace import Trace
from experiments.benchmarks import fidelity
from experiments.benchmarks.fidelity import main, ranked_otherwise, ratio_interval


def test_it_measures_replays_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    specs = ("vanilla", "hf_heuristic", "eagle2(depth=3, width=3, nodes=7)")
    monkeypatch.setattr(fidelity, "POLICIES", specs)
    monkeypatch.setattr(fidelity, "FEWEST", 1)
    out = tmp_path / "out.json"
    settings = ("--limit", "2", "--max-new-tokens", "12", "--contexts", "64")
    main([*settings, "--out", str(out)])
    saved = json.loads(out.read_text())
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {key: value for key, value in saved.items() if key != "cost"}
    assert saved["target_near_ties"] == saved["unexplained"] == []
    assert [arm["policy"] for arm in saved["arms"]] == list(specs)
    plain, *others = saved["arms"]
    assert plain["ratio"] == plain["measured"]["speedup"] == plain["predicted"]["speedup"] == 1
    for arm in others:
        assert 0.2 < arm["ratio"] < 5
        assert arm["ratio_ci95"][0] <= arm["ratio"] <= arm["ratio_ci95"][1]
        for side in ("measured", "predicted"):
            parts = arm[side]["ms"]
            assert set(parts) == set(fidelity.PARTS)
            assert all(value > 0 for value in parts.values())


def test_rounds_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay whose rounds begin one position late must not pass for the live run."""
    monkeypatch.setattr(fidelity, "POLICIES", ("vanilla", "chain(length=4)"))
    monkeypatch.setattr(fidelity, "FEWEST", 1)

    def shifted(texts: Any, *arguments: Any) -> Trace:
        trace = Trace(texts, *arguments)
        trace.envelope.roots = trace.envelope.roots.roll(1)
        return trace

    monkeypatch.setattr("experiments.benchmarks.fidelity.Trace", shifted)
    with pytest.raises(SystemExit, match="not the live ones"):
        main(["--limit", "2", "--max-new-tokens", "24", "--contexts", "64"])


def test_the_ratio_is_drawn_prompt_by_prompt() -> None:
    """Prompts that are twice as slow on both sides leave no doubt about their ratio."""
    live, base = [1.0, 2.0, 4.0], [2.0, 4.0, 8.0]
    low, high = ratio_interval(live, [0.9 * s for s in live], base, base)
    assert low == pytest.approx(1 / 0.9, abs=1e-4)
    assert high == pytest.approx(1 / 0.9, abs=1e-4)


def arm(policy: str, measured: float, predicted: float, spread: float = 0.05) -> dict[str, Any]:
    return {
        "policy": policy,
        "measured": {"speedup": measured, "ci95": [measured - spread, measured + spread]},
        "predicted": {"speedup": predicted, "ci95": [predicted - spread, predicted + spread]},
    }


def test_only_what_is_surely_apart_can_be_ranked_otherwise() -> None:
    arms = [arm("plain", 1.0, 1.0), arm("slow", 1.5, 1.9), arm("fast", 1.8, 1.7)]
    assert ranked_otherwise(arms) == [["slow", "fast"]]
    assert ranked_otherwise([arms[0], arm("slow", 1.72, 1.9), arms[2]]) == []
