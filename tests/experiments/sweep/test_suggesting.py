"""Gaps filled by a sampler, by a grid, or with what was published."""

from collections.abc import Sequence
from random import Random
from typing import Any

import optuna
import pytest

from adaeagle import get_policy
from adaeagle.search_space import Float, Int
from experiments.sweep.samplers import make_sampler
from experiments.sweep.suggesting import (
    FITTED,
    GridSuggester,
    InfeasibleError,
    Option,
    SearchContext,
    TrialSuggester,
    published,
    suggest_call,
    suggest_policy,
    unseen,
)
from experiments.sweep.template import parse

RULES = ["confidence", "cumulative", "entropy", "hf_heuristic"]


def fit(nodes: int, depth: int) -> list[list[int]]:
    """In place of trees fitted to texts: a chain and its root's other children."""
    chain = [[0] * level for level in range(1, depth + 1)]
    return chain + [[rank] for rank in range(1, nodes - depth + 1)]


SUPPLY = SearchContext(RULES, fit)


class Scripted:
    """Answers by a parameter's name; notes what it was asked for."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: dict[str, Any] = {}

    def _answer(self, name: str, about: Any) -> Any:
        self.asked[name] = about
        return self.answers[name.rpartition(".")[2]]

    def suggest_number(self, name: str, dimension: Int | Float, default: Any) -> float:
        return float(self._answer(name, (dimension, default)))

    def suggest_categorical(self, name: str, options: Sequence[Option], default: Any) -> Option:
        return self._answer(name, (list(options), default))  # type: ignore[no-any-return]


def filled(suggester: Any, text: str) -> str:
    spec = suggest_call(suggester, parse(text), text, SUPPLY).spec()
    get_policy(spec)
    return spec


def test_numbers() -> None:
    suggester = Scripted(depth=3, width=4, nodes=12)
    assert filled(suggester, "eagle2") == "eagle2(depth=3, width=4, nodes=12)"
    assert suggester.asked["eagle2.depth"] == (Int(1, 8), 6)
    assert list(suggester.asked) == ["eagle2.depth", "eagle2.width", "eagle2.nodes"]


def test_real_numbers_can_be_read() -> None:
    suggester = Scripted(threshold=0.123456789, length=7)
    text = "chain(stop=confidence)"
    assert filled(suggester, text) == "chain(stop=confidence(threshold=0.1235), length=7)"


def test_a_rule_brings_its_own_space() -> None:
    suggester = Scripted(stop="cumulative", log_threshold=-2.0, length=9)
    found = filled(suggester, "chain(stop=?)")
    assert found == "chain(stop=cumulative(log_threshold=-2.0), length=9)"
    assert suggester.asked["chain(stop=?).stop"] == (RULES, None)
    assert "chain(stop=?).stop.cumulative.log_threshold" in suggester.asked


def test_rules_by_place() -> None:
    suggester = Scripted(**{"0": "entropy"}, threshold=0.25, length=4)
    text = "chain(stop=any_of(?, confidence(threshold=0.5)))"
    expected = "chain(stop=any_of(entropy(threshold=0.25), confidence(threshold=0.5)), length=4)"
    assert filled(suggester, text) == expected


def test_values_that_a_study_cannot_hold() -> None:
    suggester = Scripted(log_threshold=-1.0, depths="(3, 6, 9)", length=12)
    found = filled(suggester, "chain(stop=beam_total)")
    assert "depths=(3, 6, 9)" in found
    options, default = suggester.asked["chain(stop=beam_total).stop.depths"]
    assert options == [None, "(2, 4, 6, 8)", "(3, 6, 9)", "(5, 7, 9)"]
    assert default == "(5, 7, 9)"


def test_trees() -> None:
    named = Scripted(tree="medusa_63")
    assert filled(named, "static_tree") == "static_tree(tree='medusa_63')"
    fitted = Scripted(tree=FITTED, nodes=3, depth=2)
    assert filled(fitted, "static_tree") == "static_tree(tree=[[0], [0, 0], [1]])"
    assert "static_tree.tree.nodes" in fitted.asked


def test_what_does_not_go_together() -> None:
    with pytest.raises(InfeasibleError, match="do not go together"):
        filled(Scripted(depth=1, width=2, nodes=9), "eagle2")
    # What is given counts as well.
    with pytest.raises(InfeasibleError, match="do not go together"):
        filled(Scripted(width=2, nodes=9), "eagle2(depth=1)")


def test_a_choice_of_policies() -> None:
    templates = {text: parse(text) for text in ("chain", "vanilla")}
    text, call = suggest_policy(Scripted(template="vanilla"), templates, SUPPLY)
    assert (text, call.spec()) == ("vanilla", "vanilla")
    text, call = suggest_policy(Scripted(template="chain", length=3), templates, SUPPLY)
    assert (text, call.spec()) == ("chain", "chain(length=3)")


def test_published_values_come_first() -> None:
    templates = {text: parse(text) for text in ("chain", "eagle2", "static_tree")}
    assert published(templates, SUPPLY) == [
        {"template": "chain", "chain.length": 12},
        {"template": "eagle2", "eagle2.depth": 6, "eagle2.width": 10, "eagle2.nodes": 59},
        {"template": "static_tree", "static_tree.tree": "eagle1"},
    ]


def test_every_rule_is_tried_as_published() -> None:
    text = "chain(length=8, stop=?)"
    found = published({text: parse(text)}, SUPPLY)
    assert {each[f"{text}.stop"] for each in found} == set(RULES)
    assert {f"{text}.stop": "confidence", f"{text}.stop.confidence.threshold": 0.4} in found
    assert all(each.get("template") is None for each in found)


def test_what_was_published_out_of_bounds_is_left_to_the_sampler() -> None:
    text = "c2t(predictor='x')"
    [found] = published({text: parse(text)}, SUPPLY)
    assert f"{text}.nodes" in found
    assert f"{text}.threshold" not in found


def run_study(sampler: str, text: str, suggester: Any, num_trials: int | None) -> list[str]:
    """The specs that a sampler asks for."""
    study = optuna.create_study(sampler=make_sampler(sampler, seed=0))
    specs = []

    def objective(trial: optuna.Trial) -> float:
        specs.append(suggest_call(suggester(trial), parse(text), text, SUPPLY).spec())
        return float(len(specs))

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study.optimize(objective, n_trials=num_trials)
    return specs


def test_a_grid_is_visited_once_and_holds_the_published_values() -> None:
    specs = run_study("grid", "chain(length=5, stop=entropy)", GridSuggester, None)
    thresholds = {0.05, 0.24, 0.43, 0.62, 0.81, 1.0, 0.3}
    assert len(specs) == len(set(specs)) == 7
    assert {float(s.partition("threshold=")[2].partition(")")[0]) for s in specs} == thresholds


def test_a_grid_over_rules_with_spaces_of_their_own() -> None:
    specs = run_study(
        "grid", "chain(length=5, stop=all_of(hf_heuristic, cumulative))", GridSuggester, 99
    )
    assert len(specs) == len(set(specs)) == 6 * 7  # -0.6 lies between two points, 5 is one


def test_a_sampler_stays_within_bounds() -> None:
    for spec in run_study("random", "chain(stop=?)", TrialSuggester, 40):
        get_policy(spec)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "cmaes"])
def test_every_sampler_fills_gaps(sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes", reason="the extra `sweep` is not installed")
    text = "chain(stop=confidence)"
    found = run_study(sampler, text, TrialSuggester, 14)
    assert len(found) == 14
    assert len(set(found)) > 7


def test_a_setting_that_was_not_tried_is_drawn_until_there_is_none() -> None:
    templates = {text: parse(text) for text in ("chain", "eagle2(depth=1, width=2)")}
    seen = {f"chain(length={length})" for length in range(1, 16)}
    random = Random(0)
    found = unseen(templates, "chain", SUPPLY, seen, random)
    assert found == {"template": "chain", "chain.length": 16}
    assert unseen(templates, "chain", SUPPLY, {*seen, "chain(length=16)"}, random) is None
    # What does not go together is not drawn.
    text = "eagle2(depth=1, width=2)"
    drawn = [unseen(templates, text, SUPPLY, (), random) or {} for _ in range(40)]
    assert {each[f"{text}.nodes"] for each in drawn} == {1, 2}
