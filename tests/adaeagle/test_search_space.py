"""Search spaces: their bounds, and what ours declare."""

import inspect
from typing import Any

import pytest

from adaeagle.policy import Policy, StopRule
from adaeagle.registry import lookup, names
from adaeagle.search_space import Categorical, Float, Int, StopRuleChoice, Tree

PUBLISHED_BEYOND = {"c2t.threshold"}  # 0, where the scale is one of ratios


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Int(3, 2), "low must be finite and <= high, got 3 and 2"),
        (lambda: Float(0.0, float("inf")), "low must be finite"),
        (lambda: Float(float("nan"), 1.0), "low must be finite"),
        (lambda: Int(0, 8, log=True), "low must be > 0 on a logarithmic scale, got 0"),
        (lambda: Float(-1.0, 1.0, log=True), "low must be > 0 on a logarithmic scale, got -1"),
        (lambda: Categorical(()), "options must hold at least one value, got none"),
    ],
)
def test_wrong_bounds(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def declared() -> list[tuple[str, Any]]:
    return [(name, lookup(name)) for name in names() if hasattr(lookup(name), "search_space")]


def test_policies_and_rules_have_a_space_and_everything_in_it_is_feasible_by_default() -> None:
    assert dict(Policy.search_space) == {}
    assert dict(StopRule.search_space) == {}
    assert Policy.is_feasible({"anything": 1})
    assert StopRule.is_feasible({})


@pytest.mark.parametrize(("name", "factory"), declared())
def test_spaces_are_of_arguments_and_hold_the_published_values(name: str, factory: Any) -> None:
    parameters = inspect.signature(factory).parameters
    for argument, dimension in factory.search_space.items():
        assert argument in parameters
        default = parameters[argument].default
        match dimension:
            case Int(low, high) | Float(low, high):
                assert (
                    default is None
                    or low <= default <= high
                    or f"{name}.{argument}" in PUBLISHED_BEYOND
                )
            case Categorical(options):
                assert default in options
            case Tree(named):
                assert default in named
            case StopRuleChoice():
                assert default is None
    defaults = {key: p.default for key, p in parameters.items() if p.default is not p.empty}
    assert factory.is_feasible(defaults)


def test_trees_that_hold_less_than_they_may_verify_are_not_tried() -> None:
    eagle2 = lookup("eagle2")
    assert eagle2.is_feasible({"depth": 2, "width": 3, "nodes": 12})  # type: ignore[attr-defined]
    assert not eagle2.is_feasible({"depth": 2, "width": 3, "nodes": 13})  # type: ignore[attr-defined]
    assert not eagle2.is_feasible({"depth": 5, "width": 3, "nodes": 4})  # type: ignore[attr-defined]
