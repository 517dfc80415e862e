"""The probability of one token against a threshold."""

from collections.abc import Callable

import pytest
import torch

from adaeagle import DraftTree
from policies import Confidence


def test_a_chain_by_hand(make_chain: Callable[..., DraftTree]) -> None:
    """Each token by itself, not the product: .5 x .5 is below .4, either .5 is not."""
    tree = make_chain([[0.5, 0.5, 0.39, 0.9]])
    open_ = Confidence().should_continue(tree, torch.tensor([[0, 1, 2, 3]]))
    assert open_.tolist() == [[True, True, False, True]]


def test_the_threshold_itself_goes_on(make_chain: Callable[..., DraftTree]) -> None:
    tree = make_chain([[0.25, 0.5]])
    assert Confidence(0.25).should_continue(tree, torch.tensor([[0, 1]])).all()


def test_limits(make_chain: Callable[..., DraftTree]) -> None:
    tree = make_chain([[1.0, 0.999, 1e-30]])
    nodes = torch.tensor([[0, 1, 2]])
    assert Confidence(0).should_continue(tree, nodes).all()
    assert Confidence(1).should_continue(tree, nodes).tolist() == [[True, False, False]]


def test_each_node_of_a_tree_is_closed_by_itself(make_tree: Callable[..., DraftTree]) -> None:
    tree = make_tree()
    frontier = torch.arange(len(tree)).expand(3, -1)
    open_ = Confidence(0.7).should_continue(tree, frontier)
    assert torch.equal(open_[tree.valid], tree.log_probs[tree.valid].exp() >= 0.7)
    assert open_.any()
    assert not open_[tree.valid].all()


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_wrong_thresholds(value: float) -> None:
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\], got"):
        Confidence(value)
