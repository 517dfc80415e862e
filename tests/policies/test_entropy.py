"""SVIP: the entropy of the distribution a token was proposed from, against a threshold."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from adaeagle import DraftTree, get_policy
from adaeagle.decoding.proposals import LiveProposer
from adaeagle.decoding.sampling import Sampling
from adaeagle.drafters.base import DraftSession, Proposal
from adaeagle.tree import ROOT
from policies import Entropy


def test_by_hand(make_chain: Callable[..., DraftTree]) -> None:
    """sqrt(.15 H) <= .3 is H <= .6: a distribution of (.9, .1) has .325 nats, one of (.5, .5) has
    .693.
    """
    nine_to_one = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    tree = make_chain([[1.0] * 4], [[nine_to_one, math.log(2), 0.59, 0.61]])
    open_ = Entropy().should_continue(tree, torch.arange(4).unsqueeze(0))
    assert open_.tolist() == [[True, False, True, False]]


def test_the_token_that_stops_is_kept(draft_chain: Callable[..., int]) -> None:
    policy = get_policy("entropy")
    assert policy.needs.entropy
    assert draft_chain(policy, [0.9] * 5, [0.1, 0.2, 2.0, 0.0, 0.0]) == 3
    assert draft_chain(policy, [0.9] * 5, [0.1, 0.2, 0.3, 0.2, 0.0]) == 5


def test_limits(make_chain: Callable[..., DraftTree]) -> None:
    tree = make_chain([[1.0] * 3], [[0.0, 0.1, 9.0]])
    nodes = torch.arange(3).unsqueeze(0)
    assert Entropy(threshold=0).should_continue(tree, nodes).tolist() == [[True, False, False]]
    assert Entropy(threshold=math.inf).should_continue(tree, nodes).all()


class TwoDistributions(DraftSession):
    """A draft session: (.9, .1) after the root, (.5, .5) after anything else."""

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        return Proposal(torch.tensor([[[0.9, 0.1]]]).log())

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        return Proposal(torch.tensor([0.5, 0.5]).log().expand(1, token_ids.shape[1], 2))


def test_siblings_share_the_distribution_they_were_proposed_from() -> None:
    """The likely and the unlikely child of one distribution are both open.

    The next distribution closes both.
    """
    proposer = LiveProposer(
        TwoDistributions(),
        lambda: (torch.zeros(1, 1, dtype=torch.int64), None, [1]),
        get_policy("chain(stop=entropy)"),
        Sampling(),
        [torch.Generator()],
    )
    tree = DraftTree.empty(1, "cpu")
    tree = tree.grow(proposer.propose(tree, torch.tensor([[ROOT]]), 2))
    assert Entropy().should_continue(tree, torch.tensor([[0, 1]])).tolist() == [[True, True]]
    tree = tree.grow(proposer.propose(tree, torch.tensor([[0, 1]]), 2))
    assert not Entropy().should_continue(tree, torch.tensor([[2, 3, 4, 5]])).any()


def test_against_a_loop(make_tree: Callable[..., DraftTree]) -> None:
    tree = make_tree()
    assert tree.entropies is not None
    rule = Entropy(threshold=0.4, scale=0.1)
    open_ = rule.should_continue(tree, torch.arange(len(tree)).expand(3, -1))
    for row in range(3):
        for node in range(len(tree)):
            expected = math.sqrt(0.1 * float(tree.entropies[row, node])) <= 0.4
            assert bool(open_[row, node]) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -0.1}, "threshold must be >= 0, got -0.1"),
        ({"threshold": math.nan}, "threshold must be >= 0, got nan"),
        ({"scale": 0.0}, "scale must be > 0, got 0.0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Entropy(**arguments)
