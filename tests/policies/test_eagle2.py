"""EAGLE-2's beam and rerank, by hand; against the official code in `test_golden_cycles.py`."""

from typing import Any

import pytest
import torch

from adaeagle import Context, DraftTree
from adaeagle.tree import Level
from policies import Eagle2


@pytest.fixture
def tree() -> DraftTree:
    """Rows 0, 1, 2 below the root, then two children of rows 0 and 1; the third row stays open.

    Path probabilities: .5 .3 .1, then .1 .05 below row 0 and .27 .03 below row 1.
    """
    first = torch.tensor([[[0.5, 0.3, 0.1]]]).log()
    second = torch.tensor([[[0.2, 0.1], [0.9, 0.1]]]).log()
    grown = DraftTree.empty(1, "cpu").grow(
        Level(torch.tensor([[-1]]), torch.tensor([[[7, 8, 9]]]), first)
    )
    return grown.grow(Level(torch.tensor([[0, 1]]), torch.tensor([[[1, 2], [3, 4]]]), second))


def context() -> Context:
    one = torch.ones(1, dtype=torch.int64)
    return Context(0, one, 99 * one, one, one)


def test_defaults_are_the_official_ones() -> None:
    """total_token 60, depth 5, top_k 10: the root is counted there, the first forward is not."""
    budget = Eagle2().plan(context())
    assert (budget.depth, budget.width, budget.nodes) == (6, 10, 59)


def test_the_beam_is_the_likeliest_of_a_level(tree: DraftTree) -> None:
    policy = Eagle2(depth=4, width=2, nodes=4)
    budget = policy.plan(context())
    empty = DraftTree.empty(1, "cpu")
    assert policy.expand(empty, torch.tensor([[-1]]), budget).tolist() == [[2]]
    # Of the last level alone, whatever older nodes have: rows 5 and 3.
    assert policy.expand(tree, torch.tensor([[3, 4, 5, 6]]), budget).tolist() == [[2, 0, 2, 0]]


def test_the_rerank_is_over_all_levels(tree: DraftTree) -> None:
    """Leaves of any depth compete: .5 .3 .27, then .1 of row 2 before the equal .1 of row 3."""
    policy = Eagle2(depth=4, width=2, nodes=4)
    keep = policy.select(tree, policy.plan(context()))
    assert keep[0].nonzero().flatten().tolist() == [0, 1, 2, 5]
    policy = Eagle2(depth=4, width=2, nodes=5)
    keep = policy.select(tree, policy.plan(context()))
    assert keep[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("name", ["depth", "width", "nodes"])
def test_wrong_settings(name: str) -> None:
    wrong: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        Eagle2(**wrong)
