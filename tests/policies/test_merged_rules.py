"""Rules that choose between a draft network and a look-up, and what of both is verified."""

import math
from collections.abc import Callable

import pytest
import torch

from adaeagle import Generation, Target, generate
from adaeagle.cost.model import CostModel
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.merged import MergedDrafter
from adaeagle.drafters.ngram import NgramDrafter
from adaeagle.drafters.suffix import SuffixDrafter
from adaeagle.policy import Policy
from adaeagle.tree import DraftTree, Level
from policies import ByMatchLength, Chain, MarginalTree
from policies.marginal_tree import survival

MakePair = Callable[..., tuple[Target, Drafter]]
LENGTH = 40


@pytest.fixture
def pair(make_pair: MakePair) -> tuple[Target, Drafter]:
    return make_pair("model")


@pytest.fixture
def prompt_ids(make_prompt: Callable[[int, int], list[int]]) -> list[int]:
    return make_prompt(6, 0) * 3


def machine(draft: float = 0.1, node: float = 0.01) -> CostModel:
    """A plain step takes one second."""
    return CostModel.linear(constant=0.0, draft=draft, verify=1.0, node=node, width=0.001)


def text_of(target: Target, drafter: Drafter | None, policy: Policy, ids: list[int]) -> Generation:
    return generate(target, drafter, policy, ids, max_new_tokens=LENGTH)


def test_each_drafter_gives_the_targets_text(
    pair: tuple[Target, Drafter], prompt_ids: list[int]
) -> None:
    target, network = pair
    plain = generate(target, None, "vanilla", prompt_ids, max_new_tokens=LENGTH).token_ids
    lookups = SuffixDrafter(score="chance"), SuffixDrafter(score="length"), NgramDrafter()
    for lookup in lookups:
        for drafter in (lookup, MergedDrafter(target, network, lookup)):
            for policy in (MarginalTree(machine()), ByMatchLength(Chain(4), least=2)):
                out = text_of(target, drafter, policy, prompt_ids)
                assert out.token_ids == plain
                assert sum(r.num_accepted for r in out.rounds) > 0
    out = text_of(target, network, MarginalTree(machine()), prompt_ids)
    assert out.token_ids == plain


def test_a_long_match_is_copied_without_the_network(
    pair: tuple[Target, Drafter], prompt_ids: list[int]
) -> None:
    target, network = pair
    drafter = MergedDrafter(target, network, SuffixDrafter(score="length"))
    never = text_of(target, drafter, ByMatchLength(Chain(3), least=1e9), prompt_ids)
    alone = text_of(target, network, Chain(3), prompt_ids)
    for one, other in zip(never.rounds, alone.rounds, strict=True):
        assert (one.draft_forwards, one.num_verified, one.num_accepted) == (
            other.draft_forwards,
            other.num_verified,
            other.num_accepted,
        )
    always = text_of(target, drafter, ByMatchLength(Chain(3), least=0, length=5), prompt_ids)
    copied = [r for r in always.rounds if r.draft_forwards == 0]
    assert copied
    assert all(r.num_verified <= 5 for r in copied)
    mixed = text_of(target, drafter, ByMatchLength(Chain(3), least=1), prompt_ids)
    forwards = {r.draft_forwards for r in mixed.rounds[:-1]}
    assert 0 in forwards
    assert len(forwards) > 1


@pytest.mark.parametrize("is_merged", [True, False])
def test_the_network_is_run_where_it_earns_its_time(
    is_merged: bool, pair: tuple[Target, Drafter], prompt_ids: list[int]
) -> None:
    target, network = pair
    drafter = network
    if is_merged:
        drafter = MergedDrafter(target, network, SuffixDrafter(score="chance"))

    def forwards(draft: float) -> int:
        out = text_of(target, drafter, MarginalTree(machine(draft)), prompt_ids)
        return sum(r.draft_forwards for r in out.rounds)

    assert forwards(0.0) > forwards(5.0)
    assert not is_merged or forwards(5.0) == 0


def test_nodes_that_cost_more_than_they_bring_are_left_out(
    pair: tuple[Target, Drafter], prompt_ids: list[int]
) -> None:
    target, network = pair
    drafter = MergedDrafter(target, network, SuffixDrafter(score="chance"))

    def verified(node: float) -> int:
        out = text_of(target, drafter, MarginalTree(machine(node=node)), prompt_ids)
        return sum(r.num_verified for r in out.rounds)

    assert verified(0.0) > verified(0.1) > 0
    assert verified(3.0) == 0


def test_survival_is_the_product_of_chances() -> None:
    """Of the root's children both propose one, the network one, the look-up one; below the first
    the network is not run, below the second it is."""
    none, unlikely = -torch.inf, -16.0
    tree = DraftTree.empty(1, "cpu").grow(
        Level(
            torch.tensor([[-1]]),
            torch.tensor([[[4, 5, 6, 7]]]),
            torch.tensor([[[math.log(0.6), math.log(0.2), unlikely, 0.0]]]),
            num_children=torch.tensor([[3]]),
            scores=torch.tensor([[[0.4, none, 0.5, none]]]),
        )
    )
    root = [1 - 0.4 * 0.6, 0.2 * 0.5, 0.5**2, none]
    torch.testing.assert_close(survival(tree), torch.tensor([root]))
    tree = tree.grow(
        Level(
            torch.tensor([[0, 1]]),
            torch.tensor([[[7, 8], [7, 8]]]),
            torch.tensor([[[unlikely, unlikely], [math.log(0.3), unlikely]]]),
            scores=torch.tensor([[[0.5, 6.0], [none, none]]]),  # a chance, and six tokens matched
        )
    )
    below = [root[0] * 0.5, root[0] * 0.75, root[1] * 0.3, 0.0]
    torch.testing.assert_close(survival(tree), torch.tensor([[*root, *below]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speedup": 0.0}, "speedup must be > 0, got 0.0"),
        ({"hope": -1.0}, "hope must be > 0"),
        ({"depth": 0}, "depth must be >= 1"),
        ({"width": 0}, "width must be >= 1"),
    ],
)
def test_what_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MarginalTree(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length must be >= 1"):
        ByMatchLength(length=0)
