"""Recorded nodes are what a live tree holds, with what became of them."""

import pytest
import torch

from adaeagle.policy import Needs
from adaeagle.registry import get_policy
from adaeagle.replay.rounds import play
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_trace
from adaeagle.trace.trace import Trace
from predictors.data.chains import read_chains
from predictors.data.nodes import Nodes, read_nodes

LENGTHS = [[2, 0, 5, 1, 3, 0, 0, 4, 6, 1, 0, 2], [1, 1, 4, 0]]


def make_trace() -> Trace:
    generator = torch.Generator().manual_seed(0)
    distributions = [torch.rand(len(text), 6, generator=generator).log() for text in LENGTHS]
    texts = toy_trace(LENGTHS, k_max=6, log_probs=distributions, beams=(3, 3), second_rank=1)
    return Trace(texts, VOCAB_SIZE)


def test_nodes_of_chains_are_the_chains_tokens() -> None:
    trace = make_trace()
    chains = read_chains(trace, 6, 10)
    found = read_nodes(trace, "chain(length=6)", num_confidences=10)
    row, column = chains.known.nonzero().unbind(1)
    assert torch.equal(found.rows, row)
    expected = {
        "log_probs": chains.log_probs,
        "path_log_probs": chains.log_probs.cumsum(1),
        "entropies": chains.entropies,
        "confidences": chains.confidences,
        "tested": chains.tested,
        "accepted": chains.accepted,
    }
    for name, values in expected.items():
        torch.testing.assert_close(found.columns[name], values[row, column])
    assert torch.equal(found.columns["depths"], column + 1.0)
    assert not found.columns["ranks"].any()


def test_nodes_of_trees_are_what_a_verification_judges() -> None:
    """Every tested node's parent is accepted, and no node below a rejected one is tested."""
    trace = make_trace()
    tree = "static_tree([[0], [1], [0, 0], [0, 1], [1, 0]])"
    found = read_nodes(trace, tree)
    tested, accepted = found.columns["tested"], found.columns["accepted"]
    assert accepted.sum() > 0
    assert not (accepted & ~tested).any()
    # Position 1 of the first text: the chain is rejected at once, the second child goes on.
    own = found.rows == 1
    where = torch.stack((found.columns["depths"], found.columns["ranks"]), dim=1)[own].tolist()
    assert where == [[1, 0], [1, 1], [2, 0], [2, 1], [2, 0]]
    assert tested[own].tolist() == [True, True, False, False, True]
    assert accepted[own].tolist() == [False, True, False, False, True]


def test_what_lies_beyond_the_text_is_left_out() -> None:
    trace = make_trace()
    found = read_nodes(trace, "chain(length=6)")
    left = trace.positions.num_left[found.rows]
    assert (found.columns["depths"] <= left).all()


def test_a_live_tree_gives_the_same_numbers() -> None:
    trace = make_trace()
    policy = get_policy("eagle2(depth=3, width=3, nodes=9)")
    policy.needs = Needs(entropy=True, num_confidences=4)
    tree = play(policy, trace, torch.tensor([0, 3]), 0).drafted.tree
    rows = torch.tensor([[2, 0], [5, 4]])
    nodes = Nodes.of_tree(tree, rows)
    for place in (0, 1):
        for column in (0, 1):
            row = int(rows[place, column])
            assert nodes.log_probs[place, column] == tree.log_probs[place, row]
            assert nodes.depths[place, column] == tree.depths[place, row]
            assert nodes.ranks[place, column] == tree.ranks[place, row]
            assert tree.confidences is not None
            assert nodes.confidences is not None
            assert torch.equal(nodes.confidences[place, column], tree.confidences[place, row])
    scalars = nodes.scalars("prob", "log_prob", "depth")
    torch.testing.assert_close(scalars[..., 0].log(), scalars[..., 1])
    assert torch.equal(scalars[..., 2], nodes.depths)


def test_padding_gives_finite_numbers() -> None:
    """What no tree holds is asked about too, and must not be what spoils a sum."""
    odd = torch.tensor([-torch.inf])
    nodes = Nodes(odd, odd, torch.zeros(1), torch.ones(1), torch.zeros(1))
    assert nodes.scalars("prob", "log_prob", "path_prob", "path_log_prob").isfinite().all()


def test_shapes_that_were_not_recorded() -> None:
    with pytest.raises(ValueError, match="shape must be one that was recorded"):
        read_nodes(make_trace(), "eagle2(depth=5, width=5, nodes=9)")
    with pytest.raises(ValueError, match="shape must draft something"):
        read_nodes(make_trace(), "vanilla")
