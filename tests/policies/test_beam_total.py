"""The total probability of a beam, against a threshold."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from adaeagle import DraftTree, get_policy
from adaeagle.tree import ROOT, Level
from policies import BeamTotal


def level(probs: Sequence[float], num_rounds: int = 1) -> DraftTree:
    """The children of the root."""
    shape = (num_rounds, 1, len(probs))
    tree = DraftTree.empty(num_rounds, "cpu")
    ids = torch.arange(len(probs)).expand(shape)
    log_probs = torch.tensor(probs).log().expand(shape)
    return tree.grow(Level(torch.full((num_rounds, 1), ROOT), ids, log_probs))


def nodes(tree: DraftTree) -> torch.Tensor:
    return torch.arange(len(tree)).expand(tree.num_rounds, -1)


def test_the_beam_is_the_likeliest_of_the_level() -> None:
    """.5 + .2 = .7 with a beam of two, .8 with all three, against .741 = exp(-0.3)."""
    tree = level([0.5, 0.1, 0.2])
    assert not BeamTotal(depths=None, width=2).should_continue(tree, nodes(tree)).any()
    assert BeamTotal(depths=None, width=3).should_continue(tree, nodes(tree)).all()
    assert BeamTotal(depths=None).should_continue(tree, nodes(tree)).all()


def test_a_level_is_left_as_a_whole() -> None:
    tree = level([0.7, 0.02])
    assert BeamTotal(depths=None).should_continue(tree, nodes(tree)).tolist() == [[False, False]]


def test_it_looks_at_the_given_depths_only(draft_chain: Callable[..., int]) -> None:
    unlikely = [0.1] * 12
    assert draft_chain(get_policy("beam_total"), unlikely) == 5
    assert draft_chain(get_policy("beam_total(depths=[7, 9])"), unlikely) == 7
    assert draft_chain(get_policy("beam_total(depths=None)"), unlikely) == 1
    likely = [0.97] * 12  # .97 ** 9 = .760, .97 ** 10 = .737
    assert draft_chain(get_policy("beam_total"), likely) == 12
    assert draft_chain(get_policy("beam_total(depths=None)"), likely) == 10


def test_against_a_loop(make_tree: Callable[..., DraftTree]) -> None:
    """Every level of ragged trees, where padding counts for nothing."""
    tree = make_tree(num_rounds=4, seed=5)
    rule = BeamTotal(log_threshold=-0.2, depths=None, width=3)
    answers = []
    for depth in range(1, tree.num_levels + 1):
        rows = (tree.depths[0] == depth).nonzero().flatten()
        open_ = rule.should_continue(tree, rows.expand(4, -1))
        for row in range(4):
            probs = [
                math.exp(tree.path_log_probs[row, node]) for node in rows if tree.valid[row, node]
            ]
            expected = sum(sorted(probs)[-3:]) > math.exp(-0.2)
            assert open_[row].tolist() == [expected] * len(rows)
            answers.append(expected)
    assert set(answers) == {True, False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_threshold": 0.5}, r"log_threshold must be <= 0, got 0.5"),
        ({"depths": []}, r"depths must be None or draft forwards >= 1, got \[\]"),
        ({"depths": [0, 3]}, r"depths must be None or draft forwards >= 1, got \[0, 3\]"),
        ({"width": 0}, r"width must be >= 1, got 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BeamTotal(**arguments)  # type: ignore[arg-type]
