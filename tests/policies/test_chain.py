"""Chains: one token after another, up to a length."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from adaeagle import Context, DraftTree, get_policy
from policies import Chain, Confidence


def test_length(draft_chain: Callable[..., int]) -> None:
    """Neither certainty nor doubt changes it."""
    assert draft_chain(Chain(3), [1e-9, 1.0, 1e-9, 1.0, 1.0]) == 3
    assert draft_chain(Chain(1), [0.5, 0.5]) == 1
    assert draft_chain(Chain(), [0.5] * 20) == 12


def test_every_token_is_verified(make_chain: Callable[..., DraftTree]) -> None:
    tree = make_chain([[0.9, 1e-9, 0.5]])
    policy = Chain(3)
    one = torch.ones(1, dtype=torch.int64)
    budget = policy.plan(Context(0, one, 99 * one, one, one))
    assert policy.select(tree, budget).all()


def test_a_stop_rule_keeps_what_stopped_it(draft_chain: Callable[..., int]) -> None:
    policy = get_policy("chain(stop=confidence(threshold=0.4), length=4)")
    assert draft_chain(policy, [0.9, 0.3, 0.9, 0.9, 0.9]) == 2
    assert draft_chain(policy, [0.3, 0.9, 0.9, 0.9, 0.9]) == 1
    assert draft_chain(policy, [0.9, 0.9, 0.9, 0.9, 0.9]) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be >= 1, got 0"),
        ({"proposal": "best"}, "proposal must be 'draw' or 'top_k', got 'best'"),
        ({"stop": 0.4}, "stop must be a stop rule such as confidence"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chain(**settings)


def test_what_a_stop_rule_needs_its_chain_needs() -> None:
    assert Chain(4).static_shape
    stopped = Chain(4, stop=Confidence())
    assert not stopped.static_shape
    assert (stopped.learns, stopped.needs.entropy) == (False, False)
    entropic = get_policy("chain(stop=entropy)")
    assert entropic.needs.entropy
    learning = get_policy("chain(stop=hf_heuristic)")
    assert learning.learns
