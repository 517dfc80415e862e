"""Bandits: which arm they ask, what they learn from, and that they find the best one."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from adaeagle import DraftTree, generate, get_policy
from adaeagle.cost.model import CostModel
from adaeagle.policy import Budget, Context, Outcome, Policy
from adaeagle.replay.replay import Replayed, replay
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_trace
from adaeagle.trace.trace import Trace
from policies import UCB, Chain, Confidence, Eagle2, HFHeuristic, Thompson, Vanilla

MakeChain = Callable[..., DraftTree]
COST = CostModel.linear(constant=0.0, draft=0.2, verify=1.0, node=0.02)
KINDS = (UCB, Thompson)


def context(num_rounds: int = 1, remaining: int = 99, number: int = 1) -> Context:
    ones = torch.ones(num_rounds, dtype=torch.int64)
    return Context(number, 9 * ones, remaining * ones, ones, ones)


def outcome(num_emitted: list[int], seconds: list[float]) -> Outcome:
    """Of rounds that drafted nothing that matters here."""
    emitted = torch.tensor(num_emitted)
    none = torch.zeros(len(emitted), 0, dtype=torch.bool)
    return Outcome(
        tree=DraftTree.empty(len(emitted), "cpu"),
        tested=none,
        accepted=none,
        num_accepted=emitted - 1,
        num_emitted=emitted,
        depth=torch.ones_like(emitted),
        draft_seconds=torch.tensor(seconds, dtype=torch.float64) / 4,
        verify_seconds=torch.tensor(seconds, dtype=torch.float64) * 3 / 4,
    )


def asked(bandit: Policy, **told: Any) -> list[int]:
    """The lengths that were planned, which tell the arms apart."""
    budget = bandit.plan(context(**told))
    return torch.as_tensor(budget.depth).reshape(-1).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_every_arm_is_tried_first_in_order(kind: type[UCB | Thompson]) -> None:
    bandit = kind(Chain(3), Chain(1), Chain(2))
    found = []
    for _ in range(3):
        found += asked(bandit)
        bandit.observe(outcome([2], [1.0]))
    assert found == [3, 1, 2]


def test_ucb_by_hand() -> None:
    """Rates of 2 and 4 tokens a second, which is 0.5 and 1, after 8 and 2 of 10 rounds."""
    bandit = UCB(Chain(1), Chain(2))
    bandit.tokens = torch.tensor([[40.0, 16.0]], dtype=torch.float64)
    bandit.seconds = torch.tensor([[20.0, 4.0]], dtype=torch.float64)
    bandit.num_rounds = torch.tensor([[8.0, 2.0]], dtype=torch.float64)
    assert asked(bandit) == [2]
    # The other way round it depends on how much is hoped: 0.5 + e x 1.517 against 1 + e x 0.759.
    bandit.num_rounds = torch.tensor([[2.0, 8.0]], dtype=torch.float64)
    widths = [math.sqrt(2 * math.log(10) / n) for n in (2, 8)]
    enough = 0.5 / (widths[0] - widths[1])
    for exploration, expected in ((0.98 * enough, 2), (1.02 * enough, 1)):
        bandit.exploration = exploration
        assert asked(bandit) == [expected]


def test_thompson_asks_in_proportion_to_what_is_known() -> None:
    """Two arms a deviation apart: the worse one wins where the difference of draws says so."""
    bandit = Thompson(Chain(1), Chain(2), exploration=0.4)
    share = 0
    for total in range(2, 2002):
        known = torch.tensor([[8.0, total - 8.0]], dtype=torch.float64)
        bandit.num_rounds = known
        bandit.tokens, bandit.seconds = torch.tensor([[0.8, 1.0]]).double() * known, known
        share += asked(bandit) == [1]
    # P(N(-0.2, 0.4^2 / 8) > 0), the better arm being known well.
    expected = 0.5 * math.erfc(0.2 * math.sqrt(8) / 0.4 / math.sqrt(2))
    assert share / 2000 == pytest.approx(expected, abs=0.02)


def test_thompson_s_seed() -> None:
    found = []
    for seed in (0, 0, 1):
        bandit = Thompson(Chain(1), Chain(2), seed=seed)
        lengths = []
        for _ in range(40):
            lengths += asked(bandit)
            bandit.observe(outcome([2], [1.0]))
        found.append(lengths)
    assert found[0] == found[1] != found[2]


def test_the_reward_is_tokens_over_seconds() -> None:
    """Of totals: a long round counts for more than a short one."""
    bandit = UCB(Chain(1), Chain(2), exploration=0.0)
    for emitted, seconds in (([2], [1.0]), ([3], [1.0])):
        bandit.plan(context())
        bandit.observe(outcome(emitted, seconds))
    assert asked(bandit) == [2]
    bandit.observe(outcome([3], [9.0]))  # 6 tokens in 10 s; the mean of 3 and 1/3 would be 1.7
    assert asked(bandit) == [1]


def test_what_teaches_nothing() -> None:
    """A text's first round, one that its end may cut short, and a text that has ended."""
    bandit = UCB(Chain(4), Chain(2))
    for told, emitted in (({"number": 0}, 3), ({"remaining": 4}, 3), ({}, 0)):
        bandit.plan(context(**told))
        bandit.observe(outcome([emitted], [1.0]))
        assert bandit.num_rounds.sum() == 0
    bandit.plan(context(remaining=5))
    bandit.observe(outcome([3], [1.0]))
    assert bandit.num_rounds.tolist() == [[1.0, 0.0]]


def test_texts_side_by_side_learn_apart() -> None:
    bandit = UCB(Chain(1), Chain(2), exploration=0.0)
    for emitted in ([2, 2], [1, 3]):
        bandit.plan(context(2))
        bandit.observe(outcome(emitted, [1.0, 1.0]))
    assert asked(bandit, num_rounds=2) == [1, 2]
    bandit.reset()
    assert asked(bandit, num_rounds=3) == [1]
    kept = UCB(Chain(1), Chain(2), exploration=0.0, across_texts=True)
    for emitted in ([2], [3]):
        kept.plan(context())
        kept.observe(outcome(emitted, [1.0]))
    kept.reset()
    assert asked(kept) == [2]


class Heard(Policy):
    """Drafts nothing, and keeps what it observes."""

    learns = True

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def plan(self, context: Context) -> Budget:
        return Budget(depth=0)

    def observe(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def test_an_arm_hears_of_its_own_rounds_alone() -> None:
    first, second = Heard(), Heard()
    bandit = UCB(first, second)
    bandit.plan(context())
    bandit.observe(outcome([2], [1.0]))
    assert [len(arm.outcomes) for arm in (first, second)] == [1, 0]
    bandit.tokens = bandit.seconds = torch.ones(2, 2, dtype=torch.float64)
    bandit.num_rounds = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    bandit.plan(context(2))
    bandit.observe(replace(outcome([2, 3], [1.0, 1.0]), depth=torch.tensor([4, 5])))
    assert first.outcomes[-1].num_emitted.tolist() == [2, 0]
    assert first.outcomes[-1].depth.tolist() == [4, 0]
    assert second.outcomes[-1].num_emitted.tolist() == [0, 3]
    assert second.outcomes[-1].verify_seconds.tolist() == [0.0, 0.75]


def played(policy: Policy, trace: Trace) -> tuple[Replayed, float]:
    """The rounds of a replay, and their tokens a second."""
    found = replay(policy, trace, COST)
    seconds = COST.round_seconds(found.rounds.shapes(trace.positions)).sum()
    return found, float(found.rounds.num_emitted.sum() / seconds)


@pytest.mark.parametrize("across_texts", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_the_best_length(kind: type[UCB | Thompson], across_texts: bool) -> None:
    """Six of eight drafted tokens would emit most; three, always accepted, are the fastest."""
    generator = torch.Generator().manual_seed(0)
    often = [(6 * (torch.rand(240, generator=generator) < 0.2) + 3).tolist() for _ in range(4)]
    trace = Trace(toy_trace(often, k_max=10), VOCAB_SIZE)
    arms = [Vanilla(), Chain(8), Chain(3), Chain(1)]
    speeds = [played(arm, trace)[1] for arm in arms]
    emitted = [played(arm, trace)[0].rounds.num_emitted.double().mean() for arm in arms]
    assert max(speeds) == speeds[2] > 1.05 * sorted(speeds)[-2]
    assert max(emitted) == emitted[1]
    found, speed = played(kind(*arms, exploration=0.3, across_texts=across_texts), trace)
    share = (found.rounds.depth == 3).double().mean()
    assert share > (0.8 if across_texts else 0.6)
    assert speed > (0.95 if across_texts else 0.9) * speeds[2]


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_a_tree_where_a_tree_is_best(kind: type[UCB | Thompson]) -> None:
    """Where the chain is left after one token the text goes on in the second-best child."""
    lengths = [[1] * 200, [1] * 200]
    texts = toy_trace(lengths, k_max=6, beams=(3, 6), second_rank=1)
    distribution = torch.tensor([0.5, 0.3, 0.2]).log()
    trace = Trace(texts, VOCAB_SIZE)
    trace.envelope.log_probs[:, :3] = distribution
    tree = Eagle2(depth=3, width=3, nodes=12)
    chain = Chain(3)
    assert played(tree, trace)[1] > 1.1 * played(chain, trace)[1]
    found, speed = played(kind(chain, tree, Vanilla(), across_texts=True), trace)
    assert found.rounds.is_tree.double().mean() > 0.8
    assert speed > 0.95 * played(tree, trace)[1]


def test_chains_beside_trees_are_priced_as_chains() -> None:
    """Texts side by side under different arms cost what they would alone."""
    texts = toy_trace([[2] * 60, [2] * 60], k_max=6, beams=(3, 6))
    trace = Trace(texts, VOCAB_SIZE)
    arms = (Chain(2), Eagle2(depth=2, width=3, nodes=5))
    bandit = Thompson(*arms, exploration=3.0)
    together = replay(bandit, trace, COST).rounds
    one = torch.tensor([0])
    alone = replay(bandit, trace, COST, one).rounds
    first = together.take(trace.positions.text_of[together.rows] == 0)
    assert torch.equal(first.is_tree, alone.is_tree)
    assert torch.equal(first.num_emitted, alone.num_emitted)
    assert 0.1 < alone.is_tree.double().mean() < 0.9


def test_a_clock_of_its_own(make_pair: Any) -> None:
    """With a cost table it learns what a replay under that table would tell it."""
    texts = toy_trace([[2, 5, 1, 0, 3, 4] * 20, [3] * 100], k_max=6, beams=(3, 6))
    trace = Trace(texts, VOCAB_SIZE)
    arms = (Chain(2), Chain(5), Eagle2(depth=3, width=3, nodes=9), Vanilla())
    told, own = UCB(*arms), UCB(*arms, cost=COST)
    replay(told, trace, COST)
    replay(own, trace, CostModel.linear(constant=0.0, draft=9.0, verify=0.1))
    assert torch.allclose(own.seconds, told.seconds)
    assert torch.equal(own.num_rounds, told.num_rounds)
    # Without any clock a round is a round.
    still = UCB(*arms)
    replay(still, trace)
    assert torch.equal(still.seconds, still.num_rounds)
    # Live it is the rounds' own time.
    target, drafter = make_pair("model")
    live = UCB(Chain(2), Chain(4))
    out = generate(target, drafter, live, [3, 1, 4], max_new_tokens=60)
    measured = sum(r.draft_seconds + r.verify_seconds for r in out.rounds[1:])
    assert 0.5 * measured < float(live.seconds.sum()) <= measured


def test_what_is_drawn_is_an_arm_s_own_choice(make_pair: Any) -> None:
    """Under sampling each arm proposes as it would alone."""
    bandit = get_policy("ucb(chain(length=2), eagle2(depth=2, width=2, nodes=4))")
    found = []
    for _ in range(2):
        bandit.plan(context())
        found.append(bandit.proposal)
        bandit.observe(outcome([2], [1.0]))
    assert found == ["draw", "top_k"]


def test_a_rule_stops_a_chain() -> None:
    bandit = UCB(Confidence(), HFHeuristic())
    assert [type(arm) for arm in bandit.arms] == [Chain, Chain]
    assert isinstance(bandit.arms[0].stop, Confidence)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ucb", "arms must be at least two policies, got 0"),
        ("thompson(chain)", "arms must be at least two policies, got 1"),
        ("ucb(chain, 3)", "arms must be policies such as chain.., got 3"),
        ("ucb(chain, vanilla, exploration=-1)", "exploration must be >= 0, got -1"),
        ("thompson(chain, vanilla, seed=-1)", "seed must be >= 0, got -1"),
    ],
)
def test_what_makes_no_bandit(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_policy(spec)
