"""The experiment on learned rules: its arms are policies, its ratios are right."""

import pytest

from adaeagle.bench.records import ArmRecord, PromptRecord
from adaeagle.registry import get_policy
from experiments.learned_rules import GRIDS, PAPER, UNTUNED, on_chain, on_tree, told


def arm(num_tokens: int, seconds: float, policy_seconds: float) -> ArmRecord:
    return ArmRecord(num_tokens, seconds, 0.0, 0.0, 0.0, policy_seconds, 0.0, [], [], [], [], [])


def test_every_arm_is_a_policy() -> None:
    rules = [template.format(values[0]) for template, values in GRIDS.values()]
    for rule in (*rules, *UNTUNED, *PAPER):
        assert get_policy(on_chain(rule)).length == 16  # type: ignore[attr-defined]
        assert get_policy(on_tree(rule, 5, 3, 8)).nodes == 8  # type: ignore[attr-defined]


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
    found = told(records, "ours", "fixed")
    assert found["tokens_per_second"] == 15.0
    assert found["over_fixed"] == 2.0
    assert found["over_fixed_ci95"] == [2.0, 2.0]
    assert found["decision_share"] == pytest.approx(0.05)
