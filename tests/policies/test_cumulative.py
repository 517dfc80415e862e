"""The product of draft probabilities along a path, against a threshold."""

import math
from collections.abc import Callable

import pytest
import torch

from adaeagle import DraftTree, get_policy
from policies import Cumulative

FRONTIER = torch.arange(6)


def test_a_chain_by_hand(make_chain: Callable[..., DraftTree]) -> None:
    """.9, .9 x .8 = .72, .9 x .8 x .7 = .504 against exp(-0.6) = .549."""
    tree = make_chain([[0.9, 0.8, 0.7]])
    open_ = Cumulative().should_continue(tree, torch.tensor([[0, 1, 2]]))
    assert open_.tolist() == [[True, True, False]]


def test_the_token_that_stops_is_kept(draft_chain: Callable[..., int]) -> None:
    policy = get_policy("cumulative")
    assert draft_chain(policy, [0.9, 0.8, 0.7, 1.0, 1.0]) == 3
    assert draft_chain(policy, [0.5, 1.0, 1.0, 1.0, 1.0]) == 1
    assert draft_chain(policy, [1.0, 1.0, 1.0, 1.0, 1.0]) == 5


def test_limits(make_chain: Callable[..., DraftTree]) -> None:
    tree = make_chain([[1.0, 0.5, 1e-9]])
    nodes = torch.tensor([[0, 1, 2]])
    assert Cumulative(log_threshold=0).should_continue(tree, nodes).tolist() == [
        [False, False, False]
    ]
    assert Cumulative(log_threshold=-math.inf).should_continue(tree, nodes).all()


def test_each_path_of_a_tree_is_judged_by_itself(make_tree: Callable[..., DraftTree]) -> None:
    tree = make_tree()
    frontier = torch.arange(len(tree)).expand(3, -1)
    open_ = Cumulative(log_threshold=-0.5).should_continue(tree, frontier)
    for row in range(3):
        for node in range(len(tree)):
            if not tree.valid[row, node]:
                assert not open_[row, node]
                continue
            product, place = 1.0, node
            while place >= 0:
                product *= math.exp(tree.log_probs[row, place])
                place = int(tree.parents[row, place])
            assert bool(open_[row, node]) == (product > math.exp(-0.5))
    assert open_.any()
    assert not open_[tree.valid].all()


def test_rounds_side_by_side(
    make_tree: Callable[..., DraftTree], row_of: Callable[[DraftTree, int], DraftTree]
) -> None:
    tree = make_tree()
    frontier = FRONTIER.expand(3, -1)
    together = Cumulative().should_continue(tree, frontier)
    for row in range(3):
        alone = Cumulative().should_continue(row_of(tree, row), FRONTIER.unsqueeze(0))
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("value", [0.1, math.nan])
def test_wrong_thresholds(value: float) -> None:
    with pytest.raises(ValueError, match=r"log_threshold must be <= 0, got"):
        Cumulative(log_threshold=value)
