"""Budgets, and what a policy does that says nothing of its own."""

from typing import Any

import pytest
import torch

from adaeagle import Budget, Context, DraftTree, Policy
from adaeagle.tree import Level


class Plain(Policy):
    def plan(self, context: Context) -> Budget:
        return Budget(depth=3, width=2, nodes=4)


@pytest.fixture
def tree() -> DraftTree:
    """Rows 0 and 1 below the root; rows 2, 3 below row 0 and rows 4, 5 below row 1."""
    first = torch.tensor([[[0.5, 0.4]]]).log()
    second = torch.tensor([[[0.2, 0.1], [0.9, 0.1]]]).log()
    ids = torch.tensor([[[3, 4]]])
    tree = DraftTree.empty(1, "cpu").grow(Level(torch.tensor([[-1]]), ids, first))
    return tree.grow(Level(torch.tensor([[0, 1]]), ids.expand(1, 2, 2), second))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": -1}, "depth must be >= 0, got -1"),
        ({"depth": 1, "width": 0}, "width must be >= 1, got 0"),
        ({"depth": 1, "width": (2, 0)}, r"width must be >= 1, got \(2, 0\)"),
        ({"depth": 1, "width": ()}, r"width must be >= 1, got \(\)"),
        ({"depth": 1, "children": 0}, "children must be >= 1, got 0"),
    ],
)
def test_wrong_budgets(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**settings)


def test_widths() -> None:
    steady, narrowing = Budget(depth=4, width=3), Budget(depth=4, width=(1, 4, 2))
    assert [steady.width_of(forward) for forward in range(4)] == [3, 3, 3, 3]
    assert [narrowing.width_of(forward) for forward in range(4)] == [1, 4, 2, 2]
    assert steady.max_children == 3
    assert narrowing.max_children == 4
    assert Budget(depth=4, width=3, children=7).max_children == 7


def test_by_default_the_likeliest_are_opened(tree: DraftTree) -> None:
    policy = Plain()
    budget = Budget(depth=3, width=2, nodes=4)
    empty = DraftTree.empty(1, "cpu")
    assert policy.expand(empty, torch.tensor([[-1]]), budget).tolist() == [[2]]
    frontier = torch.tensor([[2, 3, 4, 5]])  # paths of .10, .05, .36, .04
    assert policy.expand(tree, frontier, budget).tolist() == [[2, 0, 2, 0]]


def test_by_default_the_likeliest_are_verified(tree: DraftTree) -> None:
    policy = Plain()
    keep = policy.select(tree, Budget(depth=3, width=2, nodes=4))
    assert keep.tolist() == [[True, True, True, False, True, False]]
    assert policy.select(tree, Budget(depth=3, width=2)).all()
    assert policy.select(tree, Budget(depth=3, width=2, nodes=6)).all()


def test_by_default_nothing_is_learned() -> None:
    policy = Plain()
    policy.reset()
    assert policy.state_dict() == {}
    policy.load_state_dict({})
    assert not policy.learns
