"""Acceptance by depth and rank, counted on texts made to order."""

import torch

from adaeagle.replay.acceptance_rates import acceptance_by_rank
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_trace
from adaeagle.trace.trace import Trace


def test_chains() -> None:
    """Ten positions: depth 1 is accepted at eight, depth 2 at five of the eight."""
    lengths = [2, 1, 2, 0, 2, 1, 2, 0, 1, 2, *[0] * 3]  # the last ones: the text's end is near
    trace = Trace(toy_trace([lengths], k_max=3), VOCAB_SIZE)
    found = acceptance_by_rank(trace, 3, 2, rows=torch.arange(10))
    expected = torch.tensor([[8 / 10, 0], [5 / 8, 0], [0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_where_the_text_ends_nothing_is_rejected() -> None:
    """Three positions that could have gone on: the last has one token left, and takes it."""
    trace = Trace(toy_trace([[3, 2, 1]], k_max=4), VOCAB_SIZE)
    found = acceptance_by_rank(trace, 4, 1)
    assert found.flatten().tolist() == [1, 1, 1, 0]


def test_ranks() -> None:
    """Where the text leaves the chain it is in the third child, which was run in a beam alone."""
    trace = Trace(
        toy_trace([[0, 1, 0, 1, 0, 1, 0, 0]], k_max=4, beams=(3, 4), second_rank=2), VOCAB_SIZE
    )
    rows = torch.tensor([0, 1, 2, 3])
    found = acceptance_by_rank(trace, 2, 3, rows=rows)
    expected = torch.tensor([[0.5, 0, 0.5], [0.5, 0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    few = acceptance_by_rank(trace, 2, 2, rows=rows)
    torch.testing.assert_close(few, expected[:, :2])


def test_paths_that_were_not_recorded_are_not_counted() -> None:
    """Without the beam the third child has no children: of depth 2 only the others know."""
    trace = Trace(toy_trace([[0, 2, 0, 2, 0, 0, 0, 0]], k_max=4, second_rank=2), VOCAB_SIZE)
    found = acceptance_by_rank(trace, 2, 3, rows=torch.tensor([0, 1, 2, 3]))
    expected = torch.tensor([[0.5, 0, 0.5], [1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_a_policy_s_rounds() -> None:
    """A position that occurs twice counts twice."""
    trace = Trace(toy_trace([[1, 0, 1, 0, 0]], k_max=2), VOCAB_SIZE)
    rows = torch.tensor([0, 0, 1])
    assert acceptance_by_rank(trace, 1, 1, rows=rows).item() == 2 / 3
