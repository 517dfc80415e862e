"""The experiment on learned rules: its arms are policies, its ratios are right."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from adaeagle.bench.records import ArmRecord, PromptRecord
from adaeagle.registry import get_policy
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.trace import Trace
from experiments.benchmarks import learned_rules
from experiments.benchmarks.learned_rules import (
    BANDITS,
    GRIDS,
    PAPER,
    UNTUNED,
    Tuner,
    begin,
    compared,
    lead,
    live,
    on_chain,
    on_trees,
    tuned,
)
from experiments.runs import compare as comparison

FIXED_TREE = "eagle2(depth=4, width=3, nodes=16)"


def arm(num_tokens: int, seconds: float, policy_seconds: float) -> ArmRecord:
    return ArmRecord(num_tokens, seconds, 0.0, 0.0, 0.0, policy_seconds, 0.0, [], [], [], [], [])


def test_every_arm_is_a_policy() -> None:
    rules = [rule for own in GRIDS.values() for rule in own]
    for rule in (*rules, *UNTUNED, *PAPER):
        assert get_policy(on_chain(rule)).length == 16  # type: ignore[attr-defined]
        trees: list[Any] = [get_policy(spec) for spec in on_trees(rule, FIXED_TREE)]
        assert [(tree.depth, tree.nodes) for tree in trees] == [(6, 16), (8, 16), (8, 59)]
        assert {tree.width for tree in trees} == {3}


def test_an_arm_is_held_against_the_fixed_draft_on_the_same_prompts() -> None:
    records = [
        PromptRecord(
            id=str(number),
            category="",
            source="",
            num_turns=1,
            order=[],
            arms={"ours": arm(30, seconds, 0.1), "fixed": arm(30, 2 * seconds, 0.0)},
            divergences=[],
            policy_states="",
        )
        for number, seconds in enumerate((1.0, 2.0, 3.0))
    ]
    found = compared(records, "ours", "fixed")
    assert found["tokens_per_second"] == 15.0
    assert found["over_fixed"] == 2.0
    assert found["over_fixed_ci95"] == [2.0, 2.0]
    assert found["decision_share"] == pytest.approx(0.05)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The specs whose speed was asked for: the longer a spec, the faster."""
    found: list[str] = []

    def speed(spec: str, trace: Trace, cost: object) -> float:
        found.append(spec)
        return float(len(spec))

    monkeypatch.setattr(learned_rules, "speed", speed)
    return found


def test_the_lead_is_that_of_one_arm_over_another() -> None:
    arms = {"ours": arm(20, 1.0, 0.0), "theirs": arm(20, 3.0, 0.0)}
    records = [PromptRecord("0", "", "", 1, [], arms, [], "")]
    assert lead(records, "ours", "theirs")["ratio"] == 3.0


def test_a_speed_that_is_known_is_not_asked_again(tmp_path: Path, asked: list[str]) -> None:
    path, trace = tmp_path / "speeds.json", cast(Trace, None)
    assert Tuner(trace, path).best(["a", "bbb", "cc"]) == "bbb"
    assert json.loads(path.read_bytes()) == {"a": 1.0, "bbb": 3.0, "cc": 2.0}
    assert Tuner(trace, path).best(["a", "dddd", "cc"]) == "dddd"
    assert asked == ["a", "bbb", "cc", "dddd"]


def test_every_rule_is_tuned_on_chains_and_on_trees(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = {"chain": "chain(length=7)", "eagle2": FIXED_TREE}
    monkeypatch.setattr(Tuner, "best_fixed", lambda self, family, members: fixed[family])
    chosen = tuned(Tuner(cast(Trace, None), tmp_path / "speeds.json"))
    assert chosen["fixed"] == fixed
    for family, own in chosen["arms"].items():
        assert own[0] == fixed[family]
        assert len(own) == len(set(own))
        for spec in own:
            get_policy(spec)
    assert set(BANDITS) < set(chosen["arms"]["chain"])
    rules = len(GRIDS) + len(UNTUNED)
    assert len(chosen["arms"]["chain"]) == 1 + rules + len(PAPER) + len(BANDITS)
    assert len(chosen["arms"]["eagle2"]) == 1 + rules + 1
    assert all("nodes=16" in spec for spec in chosen["arms"]["eagle2"][1:-1])  # of equals the first
    assert len(asked) == 4 * sum(map(len, GRIDS.values())) + 3 * len(UNTUNED) + 4


def test_a_folder_is_of_one_set_of_models_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cast(TraceFolder, SimpleNamespace(manifest=SimpleNamespace(digest="d")))
    for name in learned_rules.CODE:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(learned_rules, "BUNDLED", tmp_path / "adaeagle" / "data")
    weights = tmp_path / "adaeagle" / "data" / "mini" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"before")
    out = tmp_path / "out"
    begin(out, folder, 96)
    begin(out, folder, 96)
    with pytest.raises(ValueError, match=r"without another run.*was 96, is 9"):
        begin(out, folder, 9)
    weights.write_bytes(b"after")
    with pytest.raises(ValueError, match=r"bundled.mini/model.safetensors was"):
        begin(out, folder, 96)
    weights.write_bytes(b"before")
    (tmp_path / "policies" / "new.py").write_text("new = 1")
    with pytest.raises(ValueError, match="code was"):
        begin(out, folder, 96)


def test_live_says_when_prompts_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: list[comparison.CompareSettings] = []
    num_done = 3

    def measure(given: comparison.CompareSettings) -> tuple[list[Any], dict[str, Any]]:
        settings.append(given)
        return [None] * num_done, {}

    monkeypatch.setattr(comparison, "measure", measure)
    assert live(["chain"], "mini", tmp_path, 96, 60.0) is None
    num_test = len((tmp_path / "test.jsonl").read_text().splitlines())
    assert f"3 of {num_test} prompts: the same command goes on" in capsys.readouterr().err
    num_done = num_test
    records = live(["chain"], "mini", tmp_path, 96, 60.0)
    assert records is not None
    assert len(records) == num_test
    assert settings[0] == settings[1]
    assert (settings[0].seconds, list(settings[0].policies)) == (60.0, ["vanilla", "chain"])
