"""A rule that asks for confidences gets the best log-probs of the distribution each node comes
from.
"""

import pytest
import torch
from torch import Tensor

from adaeagle import generate
from adaeagle.policy import Needs, StopRule
from adaeagle.testing.contracts import Stopped, tiny_pair
from adaeagle.tree import DraftTree

VOCAB_SIZE = 32


class Onlooker(StopRule):
    """Goes on always, and looks."""

    def __init__(self, num_confidences: int) -> None:
        self.needs = Needs(entropy=True, num_confidences=num_confidences)
        self.num_confidences = num_confidences
        self.num_seen = 0

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        found, entropies = tree.confidences, tree.entropies
        assert found is not None
        assert entropies is not None
        assert found.shape == (1, len(tree), self.num_confidences)
        known = found[..., :VOCAB_SIZE]
        assert (known.diff(dim=-1) <= 0).all()
        assert (found[..., VOCAB_SIZE:] == -torch.inf).all()
        for place, rank in enumerate(tree.ranks[0].tolist()):
            if rank < self.num_confidences and self.in_order:
                assert found[0, place, rank] == tree.log_probs[0, place]
        if self.num_confidences >= VOCAB_SIZE:  # the whole distribution
            torch.testing.assert_close(known.exp().sum(-1), torch.ones(1, len(tree)))
            distribution = torch.special.entr(known.exp()).sum(-1)
            torch.testing.assert_close(distribution, entropies, atol=1e-4, rtol=1e-4)
        self.num_seen += len(tree)
        return torch.ones_like(frontier, dtype=torch.bool)

    in_order = True
    """Children are the best of their distribution, best first."""


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("num_confidences", [1, 2, 10, VOCAB_SIZE + 3])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_live(num_confidences: int, width: int, temperature: float) -> None:
    rule = Onlooker(num_confidences)
    policy = Stopped(rule, depth=4, width=width)
    policy.proposal = "draw" if temperature > 0 else "top_k"
    rule.in_order = temperature == 0
    generate(*tiny_pair(VOCAB_SIZE, 16), policy, [1, 2], max_new_tokens=20, temperature=temperature)
    assert rule.num_seen > 0


def test_what_is_kept_keeps_its_confidences() -> None:
    """`take` renumbers rows: what belongs to a row goes with it."""
    distribution = torch.tensor([[[-1.0, -2.0]], [[-3.0, -4.0]]])
    empty = torch.zeros(1, 2, dtype=torch.int64)
    tree = DraftTree(
        token_ids=empty,
        parents=empty - 1,
        depths=empty + 1,
        log_probs=empty.float(),
        path_log_probs=empty.float(),
        ranks=empty,
        valid=empty == 0,
        origins=empty,
        confidences=distribution.transpose(0, 1),
    )
    kept = tree.take(torch.tensor([[False, True]]), 1).confidences
    assert kept is not None
    assert kept.tolist() == [[[-3.0, -4.0]]]


def test_who_does_not_ask_gets_none() -> None:
    class Idle(StopRule):
        def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
            assert tree.confidences is None
            return torch.ones_like(frontier, dtype=torch.bool)

    generate(*tiny_pair(VOCAB_SIZE, 16), Stopped(Idle(), 3, 2), [1, 2], max_new_tokens=9)
