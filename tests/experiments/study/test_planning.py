"""What a study trains and sweeps, and how it divides its time."""

import inspect
from pathlib import Path

import pytest

from adaeagle.registry import lookup, names
from experiments.study import planning
from experiments.study.planning import TimeBudget, predictor_kinds, tunable
from experiments.sweep.template import parse


def test_every_predictor_that_a_policy_asks_is_trained() -> None:
    assert {"ldlp", "specdec_pp", "disco", "c2t", "hazard"} <= set(predictor_kinds())
    assert len(set(predictor_kinds())) == len(predictor_kinds())


def test_everything_that_can_be_tuned_is_swept(random_folder: Path) -> None:
    """With the predictors that were trained; the others are named."""
    found = tunable({"ldlp": random_folder}, Path("table/cost.json"))
    assert {"chain", "eagle2", "static_tree", "confidence", "hf_heuristic"} <= set(found.templates)
    assert found.templates["eagle2"] == "eagle2"
    assert found.templates["ldlp"] == f"ldlp(predictor={str(random_folder)!r})"
    assert any("specdec_pp: no predictor specdec_pp was trained" in one for one in found.left_out)
    said = {one.partition(":")[0] for one in found.left_out}
    spaces = {name for name in names() if getattr(lookup(name), "search_space", None)}
    assert said | set(found.templates) == spaces
    for text in found.templates.values():
        parse(text)


def test_policies_get_the_studys_own_cost_table(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(planning, "get_policy", asked.append)
    tunable({kind: random_folder for kind in predictor_kinds()}, Path("table/cost.json"))
    for name in names():
        if "cost" in inspect.signature(lookup(name)).parameters:
            [spec] = [spec for spec in asked if spec.partition("(")[0] == name]
            assert "cost='table/cost.json'" in spec


def test_a_policy_that_cannot_be_loaded_is_left_out(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str, *group: str) -> object:
        if name == "eagle2":
            raise ImportError("no module named trees")
        return lookup(name, *group)

    monkeypatch.setattr(planning, "lookup", broken)
    found = tunable({}, Path("cost.json"))
    assert "eagle2: no module named trees" in found.left_out
    assert "chain" in found.templates


class Clock:
    """Stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_is_divided_by_shares_of_what_is_left() -> None:
    clock = Clock()
    budget = TimeBudget(10.0, {"a": 1.0, "b": 2.0, "c": 3.0}, clock)
    assert budget.begin("a") == pytest.approx(100.0)
    clock.now += 350.0  # it took longer
    assert budget.begin("b") == pytest.approx(250.0 * 2 / 5)
    clock.now += 10.0  # and what one leaves the next ones have
    assert budget.begin("c") == pytest.approx(240.0)


def test_stages_that_are_done_leave_their_time_to_the_others() -> None:
    budget = TimeBudget(10.0, {"a": 1.0, "b": 1.0, "c": 2.0}, Clock())
    budget.skip("a")
    assert budget.begin("b") == pytest.approx(200.0)


def test_a_stage_always_has_a_second() -> None:
    clock = Clock()
    budget = TimeBudget(1.0, {"a": 1.0, "b": 1.0}, clock)
    clock.now += 500.0
    assert budget.begin("a") == 1.0
    assert TimeBudget(None, {"a": 1.0}, clock).begin("a") is None
