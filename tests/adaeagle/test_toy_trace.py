"""Recorded texts made to order are what was ordered."""

import pytest
import torch

from adaeagle.registry import get_policy
from adaeagle.replay.oracle import reach
from adaeagle.replay.replay import replay_everywhere
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_trace
from adaeagle.trace.trace import Trace

LENGTHS = [[4, 0, 2, 7, 1, 0, 3, 8, 2, 5], [6, 1, 1], [0] * 6]


def accepted(trace: Trace, spec: str) -> list[int]:
    found: list[int] = replay_everywhere(get_policy(spec), trace).rounds.num_accepted.tolist()
    return found


def test_chains_are_accepted_as_ordered() -> None:
    """Up to the end of the text, of which a round's last token is never drafted."""
    trace = Trace(toy_trace(LENGTHS), VOCAB_SIZE)
    for longest in (3, 8):
        expected = [
            min(length, longest, len(text) - place - 1)
            for text in LENGTHS
            for place, length in enumerate(text)
        ]
        assert accepted(trace, f"chain(length={longest})") == expected


def test_a_text_with_room_ended_by_itself() -> None:
    """Its last token can be drafted: the limit is not what ended it."""
    trace = Trace(toy_trace([[9, 9, 9]], room=5), VOCAB_SIZE)
    assert accepted(trace, "chain(length=8)") == [3, 2, 1]


def test_beams_go_on_in_the_second_child() -> None:
    lengths = [[1, 0, 3] + [0] * 9]
    texts = toy_trace(lengths, beams=(3, 4), second_rank=2)
    trace = Trace(texts, VOCAB_SIZE)
    tree = "static_tree([[0], [1], [2], [0, 0], [0, 1], [0, 2], [2, 0], [0, 2, 0], [2, 0, 0]])"
    # Chain, sibling, and on from there; the third position's chain needs three best children.
    assert accepted(trace, tree)[:3] == [3, 3, 2]
    assert accepted(trace, "chain(length=8)")[:3] == [1, 0, 3]
    assert reach(trace)[:3].tolist() == [4, 4, 4]


def test_distributions_are_as_ordered() -> None:
    distribution = torch.rand(3, 8).log()
    [text] = toy_trace([[1, 2, 3]], log_probs=[distribution])
    assert torch.equal(text.envelope.log_probs[text.envelope.roots, 0], distribution[:, 0])
    whole = text.envelope.log_probs.double().exp()
    rest = (1 - whole[:, 0]) / (VOCAB_SIZE - 1)
    torch.testing.assert_close(whole[:, 1], rest, rtol=1e-4, atol=1e-6)
    entropies = -(whole[:, 0] * whole[:, 0].log()) - (VOCAB_SIZE - 1) * rest * rest.log()
    torch.testing.assert_close(text.envelope.entropies.double(), entropies, rtol=1e-4, atol=1e-4)


def test_features_lie_before_the_pending_token() -> None:
    features = torch.randn(3, 5)
    trace = Trace(toy_trace([[1, 2, 3]], features=[features]), VOCAB_SIZE)
    context = trace.positions.context(torch.arange(3), 0)
    assert context.features is not None
    assert torch.equal(context.features, features)


def test_second_rank_is_another_than_the_first() -> None:
    with pytest.raises(ValueError, match=r"second_rank must be in 1\.\.9, got 0"):
        toy_trace([[1]], second_rank=0)
