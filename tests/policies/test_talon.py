"""TALON's levels, by hand."""

from typing import Any

import pytest
import torch

from adaeagle import Context, DraftTree
from adaeagle.policy import Budget
from adaeagle.tree import Level
from policies import Talon

EMPTY = DraftTree.empty(1, "cpu")
ROOT = torch.tensor([[-1]])


def context() -> Context:
    one = torch.ones(1, dtype=torch.int64)
    return Context(0, one, 99 * one, one, one)


def play(policy: Talon, *levels: tuple[list[int], list[list[float]]]) -> list[list[int]]:
    """The policy's answers level by level, then the rows it verifies.

    Each level: the rows that were opened, and the probabilities of the children of each.
    """
    budget = policy.plan(context())
    answers = [policy.expand(EMPTY, ROOT, budget)[0].tolist()]
    tree = EMPTY
    for parents, probs in levels:
        before = len(tree)
        log_probs = torch.tensor([probs]).log()
        ids = torch.arange(log_probs.numel()).view(log_probs.shape)
        tree = tree.grow(Level(torch.tensor([parents]), ids, log_probs))
        frontier = torch.arange(before, len(tree)).unsqueeze(0)
        answers.append(policy.expand(tree, frontier, budget)[0].tolist())
    return [*answers, policy.select(tree, budget)[0].nonzero().flatten().tolist()]


FIRST = ([-1], [[0.6, 0.3, 0.01]])
SECOND = ([0, 1, 2], [[0.5, 0.2, 0.1], [0.5, 0.1, 0.1], [0.9, 0.05, 0.05]])
# Rows 3.. of path probability .30 .12 .06 | .15 .03 .03 | .009 .0005 .0005


def test_published_defaults() -> None:
    policy = Talon()
    assert (policy.nodes, policy.mu) == (60, 0.03)
    assert policy.plan(context()) == Budget(depth=12, width=60, nodes=60, children=10)


def test_the_first_level_is_not_gated() -> None:
    """Even the third token, a sixtieth as likely as the first, is kept and drafted on from."""
    assert play(Talon(nodes=20, mu=0.5, width=3), FIRST) == [[3], [3, 3, 3], [0, 1, 2]]


def test_later_levels_keep_what_is_likely_beside_their_best() -> None:
    root, first, second, kept = play(Talon(nodes=20, mu=0.39, width=3), FIRST, SECOND)
    assert (root, first) == ([3], [3, 3, 3])
    assert second == [3, 3, 0, 3, 0, 0, 0, 0, 0]  # at least .117
    assert kept == [0, 1, 2, 3, 4, 6]


def test_a_level_is_cut_to_what_is_left_and_ends_the_draft() -> None:
    *_, second, kept = play(Talon(nodes=5, mu=0.01, width=3), FIRST, SECOND)
    assert second == [0] * 9
    assert kept == [0, 1, 2, 3, 6]


def test_a_budget_below_the_first_level() -> None:
    assert play(Talon(nodes=2, width=3), FIRST) == [[3], [0, 0, 0], [0, 1]]


def test_a_level_that_was_not_asked_about_is_gated_too() -> None:
    """The core does not ask about the deepest level, which it will not draft on from."""
    policy = Talon(nodes=20, mu=0.39, depth=2, width=3)
    budget = policy.plan(context())
    policy.expand(EMPTY, ROOT, budget)
    probs = torch.tensor([FIRST[1]]).log()
    tree = EMPTY.grow(Level(ROOT, torch.tensor([[[1, 2, 3]]]), probs))
    policy.expand(tree, torch.tensor([[0, 1, 2]]), budget)
    ids = torch.arange(9).view(1, 3, 3)
    tree = tree.grow(Level(torch.tensor([[0, 1, 2]]), ids, torch.tensor([SECOND[1]]).log()))
    keep = policy.select(tree, budget)
    assert keep[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 6]


def test_mu_0_keeps_all_that_fits() -> None:
    *_, kept = play(Talon(nodes=12, mu=0.0, width=3), FIRST, SECOND)
    assert kept == list(range(12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 0}, "nodes must be >= 1, got 0"),
        ({"depth": 0}, "depth must be >= 1, got 0"),
        ({"width": 0}, "width must be >= 1, got 0"),
        ({"mu": 1.5}, r"mu must be in \[0, 1\], got 1.5"),
        ({"mu": -0.5}, r"mu must be in \[0, 1\], got -0.5"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Talon(**arguments)
