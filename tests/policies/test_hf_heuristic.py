"""Two more after a full success, one less after anything else; against `transformers` itself."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from adaeagle import DraftTree, ModelDrafter, Target, get_policy
from adaeagle.policy import Outcome
from policies import HFHeuristic

MakeChain = Callable[..., DraftTree]
MakeOutcome = Callable[[DraftTree, Sequence[int]], Outcome]


def chain_of(make_chain: MakeChain, length: int) -> DraftTree:
    return make_chain([[0.5] * length])


def test_by_hand(make_chain: MakeChain, make_outcome: MakeOutcome) -> None:
    rule = HFHeuristic()
    seen = []
    for num_drafted, num_accepted in ((5, 5), (7, 7), (9, 8), (8, 0), (7, 7)):
        assert int(rule.num_tokens) == num_drafted
        rule.observe(make_outcome(chain_of(make_chain, num_drafted), [num_accepted]))
        seen.append(int(rule.num_tokens))
    assert seen == [7, 9, 8, 7, 9]


def test_never_below_one(make_chain: MakeChain, make_outcome: MakeOutcome) -> None:
    rule = HFHeuristic(start=2)
    for _ in range(3):
        rule.observe(make_outcome(chain_of(make_chain, 1), [0]))
    assert int(rule.num_tokens) == 1


def test_a_draft_cut_short_does_not_raise_it(
    make_chain: MakeChain, make_outcome: MakeOutcome
) -> None:
    """Three of five drafted and all accepted: five was not put to the test."""
    rule = HFHeuristic()
    rule.observe(make_outcome(chain_of(make_chain, 3), [3]))
    assert int(rule.num_tokens) == 5
    rule.observe(make_outcome(chain_of(make_chain, 3), [2]))
    assert int(rule.num_tokens) == 4


def test_it_decides_how_long_a_chain_gets(draft_chain: Callable[..., int]) -> None:
    assert draft_chain(get_policy("hf_heuristic"), [0.01] * 12) == 5
    assert draft_chain(get_policy("hf_heuristic(start=1)"), [0.01] * 12) == 1


def test_a_tree_ends_at_that_level(make_tree: Callable[..., DraftTree]) -> None:
    tree = make_tree()
    open_ = HFHeuristic(start=3).should_continue(tree, torch.arange(len(tree)).expand(3, -1))
    assert torch.equal(open_, tree.depths < 3)


def test_each_text_counts_for_itself(make_chain: MakeChain, make_outcome: MakeOutcome) -> None:
    rule = HFHeuristic(start=4)
    rule.observe(make_outcome(make_chain([[0.5] * 4] * 3), [4, 0, 2]))
    assert rule.num_tokens.tolist() == [6, 3, 3]
    with pytest.raises(ValueError, match=r"rounds side by side must stay 3, .* got 2"):
        rule.observe(make_outcome(make_chain([[0.5] * 4] * 2), [4, 0]))
    rule.reset()
    rule.observe(make_outcome(make_chain([[0.5] * 4] * 2), [4, 0]))
    assert rule.num_tokens.tolist() == [6, 3]


def test_across_texts(make_chain: MakeChain, make_outcome: MakeOutcome) -> None:
    """Each text begins at `start`, or where the last one ended."""
    anew, kept = HFHeuristic(), HFHeuristic(across_texts=True)
    for rule in (anew, kept):
        rule.observe(make_outcome(chain_of(make_chain, 5), [5]))
        rule.reset()
    assert (int(anew.num_tokens), int(kept.num_tokens)) == (5, 7)
    assert anew.state_dict() == {}
    again = HFHeuristic(across_texts=True)
    again.load_state_dict(kept.state_dict())
    assert int(again.num_tokens) == 7


def test_against_transformers(
    make_pair: Callable[..., tuple[Target, ModelDrafter]],
    make_prompt: Callable[[int, int], list[int]],
    make_chain: MakeChain,
    make_outcome: MakeOutcome,
    assisted_rounds: Callable[..., list[Any]],
) -> None:
    """Told what assisted generation saw, the rule asks for as many tokens as it drafted next."""
    target, drafter = make_pair("model", "llama")
    rounds = assisted_rounds(
        target,
        drafter,
        make_prompt(12, 3),
        num_assistant_tokens_schedule="heuristic_transient",
        num_assistant_tokens=5,
        assistant_confidence_threshold=0.0,
    )
    rule = HFHeuristic()
    asked, drafted = [], []
    for seen in rounds:
        asked.append(int(rule.num_tokens))
        drafted.append(seen.num_drafted)
        rule.observe(make_outcome(chain_of(make_chain, seen.num_drafted), [seen.num_accepted]))
    assert asked == drafted
    assert len(asked) >= 20
    assert len(set(asked)) >= 5


def test_wrong_start() -> None:
    with pytest.raises(ValueError, match="start must be >= 1, got 0"):
        HFHeuristic(start=0)
