"""Labels of chains are what brute force finds."""

import pytest
import torch

from adaeagle.cost.model import CostModel
from adaeagle.registry import get_policy
from adaeagle.replay.oracle import choices, dp
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_trace
from adaeagle.trace.trace import Trace
from predictors.data.chains import dp_lengths, dp_members, read_chains

K_MAX = 6
COST = CostModel.linear(constant=0.1, draft=0.2, verify=1.0, node=0.02)


def random_lengths(*sizes: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, K_MAX + 2, (size,), generator=generator).tolist() for size in sizes]


LENGTHS = random_lengths(30, 9, 1, 4)


def test_every_token_of_every_chain() -> None:
    trace = Trace(toy_trace(LENGTHS, k_max=K_MAX, room=3), VOCAB_SIZE)
    chains = read_chains(trace, K_MAX, num_confidences=4)
    row = 0
    for text, lengths in zip(trace.texts, LENGTHS, strict=True):
        for place, length in enumerate(lengths):
            num_left = len(text.token_ids) - place - 1
            assert chains.num_known[row] == min(num_left, K_MAX)
            assert chains.lengths[row] == min(length, num_left, K_MAX)
            for depth in range(1, K_MAX + 1):
                is_known = depth <= num_left
                assert chains.known[row, depth - 1] == is_known
                assert chains.accepted[row, depth - 1] == (is_known and depth <= length)
                assert chains.tested[row, depth - 1] == (is_known and depth <= length + 1)
            row += 1
    assert chains.confidences.shape == (row, K_MAX, 4)
    assert torch.equal(chains.confidences[:, :, 0], chains.log_probs)


def test_the_limit_cuts_off_one_token_earlier_than_the_text() -> None:
    """A round does not draft as deep as the last token it may emit."""
    at_limit, by_itself = (
        read_chains(Trace(toy_trace([[9] * 10], k_max=K_MAX, room=room), VOCAB_SIZE), K_MAX)
        for room in (0, 4)
    )
    assert at_limit.num_known.tolist() == [6, 6, 6, 6, 5, 4, 3, 2, 1, 0]
    assert by_itself.num_known.tolist() == [6, 6, 6, 6, 6, 5, 4, 3, 2, 1]
    assert at_limit.whole.tolist() == [True] * 4 + [False] * 6


def test_a_rejected_chain_is_cut_off_all_the_same() -> None:
    """To leave out the accepted ones alone would leave too many short ones."""
    chains = read_chains(Trace(toy_trace([[0] * 10], k_max=K_MAX), VOCAB_SIZE), K_MAX)
    assert chains.whole.tolist() == [True] * 4 + [False] * 6


@pytest.mark.parametrize("room", [0, 3])
def test_dp_lengths_are_the_oracle_s(room: int) -> None:
    trace = Trace(toy_trace(LENGTHS, k_max=K_MAX, room=room), VOCAB_SIZE)
    family = ["vanilla", *(f"chain(length={length})" for length in range(1, K_MAX + 1))]
    played = choices([get_policy(spec) for spec in family], trace, COST)
    expected = dp(played, trace.positions).members
    found = dp_lengths(trace, read_chains(trace, K_MAX), COST)
    assert torch.equal(found, expected)
    assert len(set(found.tolist())) > 3


def test_dp_lengths_differ_from_what_is_accepted() -> None:
    """The text's own lengths are not the cheapest ones: that a label is needed at all."""
    trace = Trace(toy_trace(LENGTHS, k_max=K_MAX), VOCAB_SIZE)
    chains = read_chains(trace, K_MAX)
    found = dp_lengths(trace, chains, COST)
    assert (found[chains.whole] < chains.lengths[chains.whole]).any()


def test_trees_have_a_best_budget_too() -> None:
    texts = toy_trace([[0, 4, 0, 4, 0, 4, 0, 4]], beams=(2, 2), second_rank=1)
    trace = Trace(texts, VOCAB_SIZE)
    family = ["vanilla", "chain(length=4)", "static_tree([[0], [1], [1, 0]])"]
    found = dp_members(trace, [get_policy(spec) for spec in family], COST)
    assert found[1] == 1
    assert found[0] == 2


def test_chains_that_were_not_recorded() -> None:
    trace = Trace(toy_trace(LENGTHS, k_max=K_MAX), VOCAB_SIZE)
    with pytest.raises(ValueError, match="k_max must be <= 6, as was recorded, got 7"):
        read_chains(trace, 7)
    with pytest.raises(ValueError, match=r"num_confidences must be in 1\.\.10, .* got 11"):
        read_chains(trace, K_MAX, 11)
