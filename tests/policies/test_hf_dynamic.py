"""A confidence threshold refitted by a ROC curve; against `transformers` itself."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from adaeagle import DraftTree, ModelDrafter, Target, get_policy
from adaeagle.policy import Outcome
from policies import HFDynamic
from policies.hf_dynamic import best_threshold

MakeChain = Callable[..., DraftTree]
MakeOutcome = Callable[[DraftTree, Sequence[int]], Outcome]


def cost(threshold: float, probs: Sequence[float], accepted: Sequence[bool]) -> float:
    """Of every bad token gone on from, and three times of every good one that was not."""
    bad = [p >= threshold for p, a in zip(probs, accepted, strict=True) if not a]
    good = [p >= threshold for p, a in zip(probs, accepted, strict=True) if a]
    return sum(bad) / len(bad) + 3 * (1 - sum(good) / len(good))


def test_by_hand() -> None:
    """At .6 one bad token of two is let through, at .7 one good one of four is lost: 0.5 < 0.75."""
    probs = [0.9, 0.8, 0.7, 0.6, 0.65, 0.3]
    accepted = [True, True, True, True, False, False]
    assert best_threshold(probs, accepted) == 0.6
    assert cost(0.6, probs, accepted) == 0.5
    assert cost(0.7, probs, accepted) == 0.75


def test_against_a_search() -> None:
    """No threshold is cheaper than the one found."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        probs = torch.rand(25, generator=generator)
        accepted = torch.rand(25, generator=generator) < probs
        if not 0 < int(accepted.sum()) < 25:
            continue
        p, a = probs.tolist(), accepted.tolist()
        least = min(cost(threshold, p, a) for threshold in [*p, 2.0])
        assert cost(best_threshold(p, a), p, a) == pytest.approx(least)


def test_points_are_scikit_learn_s() -> None:
    """Of equal costs the first point counts, as `transformers` takes it."""
    draws = np.random.default_rng(0)
    for digits in (1, 2, 7):
        for _ in range(60):
            probs = np.round(draws.random(draws.integers(6, 40)), digits).tolist()
            accepted = (draws.random(len(probs)) < draws.random()).tolist()
            if len(set(accepted)) == 2:
                bad, good, thresholds = roc_curve(accepted, probs)
                expected = float(thresholds[np.argmin(bad + 3 * (1 - good))])
                assert best_threshold(probs, accepted) == expected


def test_it_waits_for_six_samples_of_both_outcomes(
    make_chain: MakeChain, make_outcome: MakeOutcome
) -> None:
    rule = HFDynamic()
    rule.observe(make_outcome(make_chain([[0.9, 0.8, 0.7, 0.6, 0.5]]), [4]))
    assert rule.threshold.tolist() == pytest.approx([0.4])  # five
    rule.observe(make_outcome(make_chain([[0.95, 0.5]]), [0]))
    assert rule.threshold.tolist() == pytest.approx([0.6])  # .95 fell, the .5 after it was untested
    same = HFDynamic()
    same.observe(make_outcome(make_chain([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]]), [7]))
    assert same.threshold.tolist() == pytest.approx([0.4])  # all good


def test_the_token_that_stops_is_kept(draft_chain: Callable[..., int]) -> None:
    policy = get_policy("hf_dynamic")
    assert draft_chain(policy, [0.9, 0.5, 0.3, 0.9, 0.9]) == 3


def test_on_a_tree_each_node_is_judged_and_every_tested_one_teaches(
    make_tree: Callable[..., DraftTree],
) -> None:
    tree = make_tree()
    rule = HFDynamic(threshold=0.75)
    open_ = rule.should_continue(tree, torch.arange(len(tree)).expand(3, -1))
    assert torch.equal(open_, tree.log_probs.exp() >= 0.75)
    tested = tree.valid & (tree.depths <= 2)
    accepted = tested & (tree.ranks == 0)
    ones = torch.ones(3, dtype=torch.int64)
    seconds = torch.zeros(3, dtype=torch.float64)
    rule.observe(Outcome(tree, tested, accepted, ones, ones + 1, ones * 4, seconds, seconds))
    for row in range(3):
        probs = tree.log_probs[row, tested[row]].exp().tolist()
        labels = accepted[row, tested[row]].tolist()
        enough = len(probs) > 5 and len(set(labels)) == 2
        expected = best_threshold(probs, labels) if enough else 0.75
        assert float(rule.threshold[row]) == pytest.approx(expected)
    assert len(set(rule.threshold.tolist())) > 1


def test_across_texts(make_chain: MakeChain, make_outcome: MakeOutcome) -> None:
    """Each text begins at the first threshold and without samples, or goes on learning."""
    anew, kept = HFDynamic(), HFDynamic(across_texts=True)
    for rule in (anew, kept):
        rule.observe(make_outcome(make_chain([[0.9, 0.8, 0.7, 0.6, 0.5, 0.45]]), [5]))
        assert rule.threshold.tolist() == pytest.approx([0.5])
        rule.reset()
    assert anew.threshold.tolist() == pytest.approx([0.4])
    assert anew.state_dict() == {}
    again = HFDynamic(across_texts=True)
    again.load_state_dict(kept.state_dict())
    for rule in (kept, again):
        rule.observe(make_outcome(make_chain([[0.55, 0.9]]), [0]))
        assert rule.threshold.tolist() == pytest.approx([0.5])  # 1/2 costs less than any good one
    for _ in range(8):
        kept.observe(make_outcome(make_chain([[0.2]]), [1]))
    assert kept.threshold.tolist() == pytest.approx([0.2])
    assert again.threshold.tolist() == pytest.approx([0.5])  # a copy, not the same samples


def test_against_transformers(
    make_pair: Callable[..., tuple[Target, ModelDrafter]],
    make_prompt: Callable[[int, int], list[int]],
    make_chain: MakeChain,
    make_outcome: MakeOutcome,
    assisted_rounds: Callable[..., list[Any]],
) -> None:
    """Told what assisted generation saw, the rule stops where it stopped, by default at 20."""
    target, drafter = make_pair("model", "llama")
    rounds = assisted_rounds(target, drafter, make_prompt(12, 3))
    rule = HFDynamic()
    thresholds = set()
    for seen in rounds:
        tree = make_chain([seen.probs])
        open_ = rule.should_continue(tree, torch.arange(len(tree)).unsqueeze(0))[0].tolist()
        assert all(open_[:-1])
        assert len(open_) == 20 or not open_[-1]
        rule.observe(make_outcome(tree, [seen.num_accepted]))
        thresholds.add(float(rule.threshold))
    assert len(rounds) >= 20
    assert len(thresholds) >= 4


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_wrong_threshold(value: float) -> None:
    with pytest.raises(ValueError, match=rf"threshold must be in \[0, 1\], got {value}"):
        HFDynamic(threshold=value)
