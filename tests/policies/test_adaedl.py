"""A bound on acceptance from the draft's entropy, and the threshold that follows acceptance."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from adaeagle import DraftTree, get_policy
from adaeagle.policy import Outcome
from policies import AdaEDL

MakeChain = Callable[..., DraftTree]
MakeOutcome = Callable[[DraftTree, Sequence[int]], Outcome]
OPEN, CLOSED = 0.1, 3.0  # nats: bounds of .859 and .225


def chains(make_chain: MakeChain, entropies: list[list[float]]) -> DraftTree:
    return make_chain([[0.5] * len(row) for row in entropies], entropies)


def test_by_hand(make_chain: MakeChain) -> None:
    """1 - sqrt(.2 H): .684 at H = .5, .576 at .9; 0 at 5, against a first threshold of .6."""
    tree = chains(make_chain, [[0.5, 0.9, 5.0, 0.0]])
    open_ = AdaEDL().should_continue(tree, torch.arange(4).unsqueeze(0))
    assert open_.tolist() == [[True, False, False, True]]
    assert AdaEDL(threshold=0.0).should_continue(tree, torch.tensor([[1]])).item()


def test_the_token_that_stops_is_kept(draft_chain: Callable[..., int]) -> None:
    policy = get_policy("adaedl")
    assert policy.needs.entropy
    assert policy.learns
    assert draft_chain(policy, [0.9] * 5, [OPEN, OPEN, CLOSED, OPEN, OPEN]) == 3
    assert draft_chain(policy, [0.9] * 5, [CLOSED, OPEN, OPEN, OPEN, OPEN]) == 1


def test_the_threshold_by_hand(make_chain: MakeChain, make_outcome: MakeOutcome) -> None:
    """From .6, a tenth of a step of .01 a round; the accepted share begins at .9."""
    rule = AdaEDL()
    stopped = chains(make_chain, [[OPEN, OPEN, OPEN, CLOSED]])
    rule.observe(make_outcome(stopped, [1]))  # share .9 / 2 + .25 / 2 = .575
    assert rule.threshold.tolist() == pytest.approx([0.601])
    rule.observe(make_outcome(stopped, [4]))  # .7875
    assert rule.threshold.tolist() == pytest.approx([0.602])
    rule.observe(make_outcome(stopped, [4]))  # .894
    assert rule.threshold.tolist() == pytest.approx([0.603])
    rule.observe(make_outcome(stopped, [4]))  # .947, above the target: down
    assert rule.threshold.tolist() == pytest.approx([0.602])
    ran_out = chains(make_chain, [[OPEN, OPEN, OPEN, OPEN]])
    rule.observe(make_outcome(ran_out, [4]))  # the shape ended it: nothing to gain
    assert rule.threshold.tolist() == pytest.approx([0.602])
    rule.observe(make_outcome(chains(make_chain, [[OPEN] * 20]), [19]))  # .962, not the whole
    assert rule.threshold.tolist() == pytest.approx([0.601])


def reference(rounds: list[tuple[list[float], int]]) -> float:
    """The update as one reads it, a round at a time."""
    threshold, rate = 0.6, 0.9
    for entropies, num_accepted in rounds:
        if not entropies:
            continue
        rate = 0.5 * rate + 0.5 * num_accepted / len(entropies)
        wanted = threshold
        if rate < 0.9:
            wanted += 0.05
        elif num_accepted < len(entropies) or 1 - math.sqrt(0.2 * entropies[-1]) < threshold:
            wanted -= 0.05
        threshold = 0.9 * threshold + 0.1 * wanted
    return threshold


def test_texts_side_by_side_against_a_loop(
    make_chain: MakeChain, make_outcome: MakeOutcome
) -> None:
    generator = torch.Generator().manual_seed(0)
    rule = AdaEDL(step=0.05)
    histories: list[list[tuple[list[float], int]]] = [[], [], [], []]
    kindness = torch.tensor([0.1, 0.6, 0.97, 0.9])
    for _ in range(60):
        entropies = (2 * torch.rand(4, 3, generator=generator)).tolist()
        wins = torch.rand(4, 3, generator=generator) < kindness.unsqueeze(1)
        num_accepted = wins.long().cumprod(1).sum(1).tolist()
        rule.observe(make_outcome(chains(make_chain, entropies), num_accepted))
        for history, entropy, accepted in zip(histories, entropies, num_accepted, strict=True):
            history.append((entropy, accepted))
    found = rule.threshold.tolist()
    assert found == pytest.approx([reference(history) for history in histories], abs=1e-5)
    assert found[0] > 0.8
    assert found[2] < 0.6


def test_on_a_tree_levels_count(
    make_tree: Callable[..., DraftTree], make_outcome: MakeOutcome
) -> None:
    """Two of four levels accepted: a share of one half."""
    tree = make_tree(num_rounds=1)
    rule = AdaEDL()
    rule.observe(make_outcome(tree, [2]))
    assert rule.rate.tolist() == pytest.approx([0.5 * 0.9 + 0.5 * 0.5])


def test_a_round_without_a_draft_teaches_nothing(make_outcome: MakeOutcome) -> None:
    empty = DraftTree.empty(2, "cpu")
    zeros = torch.zeros(2, dtype=torch.int64)
    seconds = torch.zeros(2, dtype=torch.float64)
    outcome = Outcome(empty, empty.valid, empty.valid, zeros, zeros + 1, zeros, seconds, seconds)
    rule = AdaEDL()
    rule.observe(outcome)
    assert rule.threshold.tolist() == pytest.approx([0.6, 0.6])
    assert rule.rate.tolist() == pytest.approx([0.9, 0.9])


def test_across_texts(make_chain: MakeChain, make_outcome: MakeOutcome) -> None:
    anew, kept, still = AdaEDL(), AdaEDL(across_texts=True), AdaEDL(step=0.0, across_texts=True)
    for rule in (anew, kept, still):
        rule.observe(make_outcome(chains(make_chain, [[OPEN, CLOSED]]), [0]))
        rule.reset()
    assert anew.threshold.tolist() == still.threshold.tolist() == pytest.approx([0.6])
    assert anew.state_dict() == {}
    again = AdaEDL(across_texts=True)
    again.load_state_dict(kept.state_dict())
    assert again.threshold.tolist() == pytest.approx([0.601])
    assert again.rate.tolist() == pytest.approx([0.45])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, r"threshold must be in \[0, 1\], got 1.5"),
        ({"target": -0.5}, r"target must be in \[0, 1\], got -0.5"),
        ({"rate_memory": 2.0}, r"rate_memory must be in \[0, 1\], got 2.0"),
        ({"threshold_memory": math.nan}, r"threshold_memory must be in \[0, 1\], got nan"),
        ({"gamma": 0.0}, r"gamma must be > 0, got 0.0"),
        ({"step": -0.1}, r"step must be >= 0, got -0.1"),
    ],
)
def test_wrong_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaEDL(**arguments)  # type: ignore[arg-type]
