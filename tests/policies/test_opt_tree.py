"""OPT-Tree's level-by-level growth, by hand."""

from typing import Any

import pytest
import torch

from adaeagle import Context, DraftTree
from adaeagle.policy import Budget
from adaeagle.tree import Level
from policies import OptTree

EMPTY = DraftTree.empty(1, "cpu")
ROOT = torch.tensor([[-1]])


def context(num_rounds: int = 1) -> Context:
    one = torch.ones(num_rounds, dtype=torch.int64)
    return Context(0, one, 99 * one, one, one)


def grown(*levels: tuple[list[int], list[list[float]]]) -> DraftTree:
    """Each level: the rows that were opened, and the probabilities of the children of each."""
    tree = EMPTY
    for parents, probs in levels:
        log_probs = torch.tensor([probs]).log()
        ids = torch.arange(log_probs.numel()).view(log_probs.shape)
        tree = tree.grow(Level(torch.tensor([parents]), ids, log_probs))
    return tree


FIRST = ([-1], [[0.5, 0.3, 0.1]])
SECOND = ([0, 1], [[0.2, 0.1, 0.05], [0.9, 0.05, 0.01]])  # .1 .05 .025 | .27 .015 .003


def second_answer(policy: OptTree) -> list[int]:
    """What is asked of the three nodes of the first level."""
    budget = policy.plan(context())
    policy.expand(EMPTY, ROOT, budget)
    return policy.expand(grown(FIRST), torch.tensor([[0, 1, 2]]), budget)[0].tolist()


def test_published_defaults() -> None:
    assert OptTree().plan(context()) == Budget(depth=10, width=10, nodes=60)
    assert OptTree().threshold == 0.5


def test_the_root_gets_all_children() -> None:
    policy = OptTree(width=3)
    assert policy.expand(EMPTY, ROOT, policy.plan(context())).tolist() == [[3]]


def test_only_nodes_that_will_be_verified_are_drafted_on_from() -> None:
    assert second_answer(OptTree(nodes=2, width=3)) == [3, 3, 0]
    assert second_answer(OptTree(nodes=9, width=2)) == [2, 2, 0]
    assert second_answer(OptTree(nodes=9, width=3)) == [3, 3, 3]


def test_a_level_that_adds_too_little_ends_the_draft() -> None:
    """The first level of two nodes adds .8, the second raises .8 to .8 (2 nodes), 1.07 (3)."""
    assert second_answer(OptTree(nodes=2, width=3, threshold=0.79)) == [3, 3, 0]
    assert second_answer(OptTree(nodes=2, width=3, threshold=0.81)) == [0, 0, 0]
    for nodes, threshold, goes_on in ((2, 0.0, False), (3, 0.16, True), (3, 0.18, False)):
        policy = OptTree(nodes=nodes, width=3, threshold=threshold)
        second_answer(policy)
        budget = policy.plan(context())
        policy.expand(EMPTY, ROOT, budget)
        policy.expand(grown(FIRST), torch.tensor([[0, 1, 2]]), budget)
        answer = policy.expand(grown(FIRST, SECOND), torch.arange(3, 9).unsqueeze(0), budget)
        assert bool(answer.any()) == goes_on, (nodes, threshold)


def test_each_round_is_judged_by_its_own_gain() -> None:
    """Side by side: one whose first level adds .9, one whose first level adds .3."""
    policy = OptTree(nodes=4, width=2, threshold=0.5)
    budget = policy.plan(context(2))
    policy.expand(DraftTree.empty(2, "cpu"), ROOT.expand(2, 1), budget)
    probs = torch.tensor([[[0.6, 0.3]], [[0.2, 0.1]]]).log()
    tree = DraftTree.empty(2, "cpu").grow(
        Level(ROOT.expand(2, 1), torch.tensor([[[1, 2]], [[1, 2]]]), probs)
    )
    answer = policy.expand(tree, torch.tensor([[0, 1], [0, 1]]), budget)
    assert answer.tolist() == [[2, 2], [0, 0]]


def test_the_likeliest_nodes_of_all_levels_are_verified() -> None:
    policy = OptTree(nodes=4, width=3)
    keep = policy.select(grown(FIRST, SECOND), policy.plan(context()))
    assert keep[0].nonzero().flatten().tolist() == [0, 1, 2, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 0}, "nodes must be >= 1, got 0"),
        ({"depth": 0}, "depth must be >= 1, got 0"),
        ({"width": 0}, "width must be >= 1, got 0"),
        ({"threshold": -0.1}, "threshold must be >= 0, got -0.1"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptTree(**arguments)
