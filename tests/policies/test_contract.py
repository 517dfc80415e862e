"""Every registered policy and stop rule keeps the public contract."""

from importlib.metadata import entry_points
from inspect import signature

import pytest

from adaeagle.policy import Policy, StopRule
from adaeagle.registry import POLICIES, build, get_policy
from adaeagle.testing import PolicyContract, StopRuleContract

SHAPES = [
    "vanilla",
    "chain(length=5)",
    "chain(stop=confidence)",
    "chain(length=4, stop=hf_heuristic, proposal='top_k')",
    "static_tree(tree='eagle1')",
    "static_tree(tree='medusa_63', stop=cumulative(log_threshold=-4.0))",
    "eagle2",
    "eagle2(depth=11, width=4, nodes=20, stop=beam_total(depths=[2, 4], width=4))",
    "eagle2(depth=5, width=4, nodes=12, stop=adaedl)",
    "opt_tree(nodes=14, threshold=0.1, depth=5, width=4)",
    "marginal_tree(speedup=0.1, depth=5, width=3)",
    "opt_tree(nodes=9, depth=4, width=3, stop=hf_heuristic)",
    "talon(nodes=14, mu=0.2, depth=6, width=4)",
    "talon(nodes=6, mu=0.0, width=8, stop=confidence(threshold=0.05))",
    # A bandit that takes its time from the clock cannot run twice alike.
    "ucb(chain(length=2), static_tree, hf_heuristic, cost='mini')",
    "ucb(vanilla, talon(nodes=14, depth=6, width=4), entropy, across_texts=True, cost='mini')",
    "batch_table([[1, 4], [3, 2], [9, 0]])",
    "goodput(length=5)",
    "batch_select(eagle2(depth=4, width=4, nodes=12), total=9)",
    "batch_select(chain(length=6, proposal='top_k'), cost='mini', floor=2.0)",
    "batch_slots(length=6, total=7)",
    "batch_slots(length=6, cost='mini', floor=1.5, proposal='top_k')",
    "thompson(hf_dynamic(across_texts=True), eagle2(depth=3, width=9, nodes=20), cost='mini')",
]
RULES = [
    "confidence",
    "cumulative",
    "beam_total(log_threshold=-1.0, depths=[2, 4])",
    "entropy(threshold=0.5)",
    "adaedl(threshold=0.3, step=0.5)",
    "hf_heuristic(start=2, across_texts=True)",
    "hf_dynamic",
    "all_of(confidence(threshold=0.6), hf_heuristic(start=3))",
    "any_of(adaedl(across_texts=True), all_of(hf_dynamic(across_texts=True), cumulative))",
]


class TestShapes(PolicyContract):
    @pytest.fixture(params=SHAPES)
    def policy(self, request: pytest.FixtureRequest) -> Policy:
        return get_policy(request.param)


class TestRules(StopRuleContract):
    @pytest.fixture(params=RULES)
    def rule(self, request: pytest.FixtureRequest) -> StopRule:
        rule = build(request.param)
        assert isinstance(rule, StopRule)
        return rule


def test_no_registered_name_is_left_out() -> None:
    """Those that hold a predictor are tried in `tests/policies/test_predicting.py`, those that
    read the scores of look-ups in `test_score.py` and `test_merged_rules.py`."""
    ours = {
        entry.name
        for entry in entry_points(group=POLICIES)
        if entry.value.startswith("policies.")
        and "predictor" not in signature(entry.load()).parameters
        and entry.name not in ("score", "by_match_length")
    }
    tried = " ".join(SHAPES + RULES)
    assert {name for name in ours if name not in tried} == set()
