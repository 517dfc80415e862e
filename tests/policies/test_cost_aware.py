"""Drafting on while it is worth its time: the rule by hand, and what it makes of a trace."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from operator import mul
from types import SimpleNamespace

import pytest
import torch

from adaeagle.cost.model import CostModel
from adaeagle.identity import ModelIdentity
from adaeagle.policy import Budget, Context
from adaeagle.replay.replay import replay
from adaeagle.testing.toy_trace import toy_trace
from adaeagle.trace.trace import Trace
from adaeagle.tree import DraftTree, Level
from policies import AllOf, AnyOf, Chain, Eagle2
from policies.cost_aware import STOP, CostAware
from policies.support.round_costs import PathCosts
from predictors.base import Metadata
from predictors.hazard.chains import Distribution
from predictors.hazard.network import HazardPredictor
from predictors.hazard.trees import Family

MODELS = ModelIdentity("t", "1", "d", "2", feature_size=6, vocab_size=50, dtype="float32")
COST = CostModel.linear(constant=0.0, draft=1.0, verify=10.0)

MakeChain = Callable[..., DraftTree]


def hazard(k_max: int = 4, horizon: int = 2) -> HazardPredictor:
    torch.manual_seed(0)
    predictor = HazardPredictor(k_max=k_max, horizon=horizon, hidden_size=8)
    predictor.prepare(Metadata(MODELS), torch.randn(50, 6))
    predictor.get_buffer("num_accepted").copy_(torch.ones(k_max + 1) / (k_max + 1))
    return predictor.eval()


def context(num_rounds: int = 1) -> Context:
    ids = torch.full((num_rounds,), 7)
    return Context(
        0, ids + 9, ids + 99, ids, ids, torch.zeros(num_rounds, 6), lambda n: [[7]] * num_rounds
    )


def against(chance: float) -> float:
    """Log-odds against something."""
    return math.inf if chance == 0 else math.log(max(1 / chance - 1, 1e-300))


def plan(rule: CostAware, survival: float, ahead: list[float]) -> int:
    """How far the rule would draft after one token, of this distribution."""
    rule.begin(context())
    rule._replan(
        0, Distribution(survival, [against(each) for each in ahead]), rule._of.chain(100), 1
    )
    return rule._plans[0]


def says(rule: CostAware, survival: float, ahead: list[float]) -> bool:
    return plan(rule, survival, ahead) > 1


def test_a_token_is_worth_its_time_or_not() -> None:
    rule = CostAware(hazard(), COST, rate=0.5, patience=1.0)  # a forward must bring half a token
    assert says(rule, 1.0, [0.6, 0.0])
    assert not says(rule, 1.0, [0.4, 0.0])
    assert not says(rule, 0.5, [0.6, 0.0])  # what hangs from an unsure token is unsure


def test_it_looks_ahead() -> None:
    rule = CostAware(hazard(), COST, rate=0.5, patience=1.0)
    # 0.45 for one forward is too little, 0.45 + 0.45 for two, and 3 x 0.45 for three as well;
    # an unlikely token that leads to sure ones may be worth it all the same.
    assert not says(rule, 1.0, [0.45, 1.0])
    assert says(rule, 1.0, [0.51, 1.0])
    lenient = CostAware(hazard(k_max=8), CostModel.linear(constant=0, draft=1, verify=9, node=0))
    lenient.rate = 0.5
    assert not says(lenient, 1.0, [0.4, 0.9])


def test_it_plans_to_where_the_next_token_is_not_worth_it() -> None:
    rule = CostAware(hazard(k_max=9, horizon=3), COST, rate=0.5, patience=1.0)
    assert plan(rule, 1.0, [0.9, 0.9, 0.4]) == 3
    assert plan(rule, 0.6, [0.9, 0.9, 0.9]) == 2
    assert plan(rule, 1.0, [0.9, 0.9, 0.9]) == 7  # beyond the horizon as at its end: 0.9^6 > 0.5
    assert plan(rule, 1.0, [1.0, 1.0, 1.0]) == 9


def test_no_length_that_pays_is_overlooked() -> None:
    """Looking ahead ends early: at the lengths that looking at all of them finds."""
    draw = random.Random(0)
    for _ in range(300):
        seconds = list(accumulate((draw.uniform(0.2, 1.0) for _ in range(12)), initial=5.0))
        least = min(after - before for before, after in pairwise(seconds))
        alive, ahead, depth = draw.random(), [draw.random() ** 0.3 for _ in range(4)], 3
        chances = accumulate([*ahead, *[ahead[-1]] * 5], mul, initial=alive)
        tokens = list(accumulate(list(chances)[1:]))
        gains = [brought - 0.6 * (seconds[4 + n] - seconds[3]) for n, brought in enumerate(tokens)]
        expected = 4 + gains.index(max(gains)) if max(gains) > 0 else None
        assert PathCosts(seconds, least).plan(alive, ahead, depth, 0.6) == expected


def test_it_asks_where_its_plan_ends_and_when_surprised(
    make_chain: MakeChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds side by side, each asked at places of its own, and at no others."""
    rule = CostAware(hazard(k_max=9), COST)
    plans = iter([3, 9, 8, 5, 3, 8, 3])
    asked: list[tuple[list[int], int]] = []

    def after(
        rows: list[int], log_probs: list[list[float]], token_ids: object
    ) -> list[Distribution]:
        asked.append((rows, len(log_probs[0])))
        return [Distribution(1.0, [])] * len(rows)

    monkeypatch.setattr(rule, "_replan", lambda row, *_: rule._plans.__setitem__(row, next(plans)))
    assert rule.begin(context(4)) is None
    rule._chains = SimpleNamespace(after=after)  # type: ignore[assignment]
    probs = [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9], [0.9, 0.9, 0.2], [0.9, 0.9, 0.1]]
    opens = []
    for depth in (1, 2, 3):
        chain = make_chain([row[:depth] for row in probs])
        opens.append(rule.should_continue(chain, torch.full((4, 1), depth - 1))[:, 0].tolist())
    assert asked == [([0, 1, 2, 3], 2), ([0, 2, 3], 3)]
    assert opens == [[True] * 4, [True] * 4, [False, True, True, False]]


def test_of_what_it_is_sure_it_is_not_easily_surprised() -> None:
    rule = CostAware(hazard(k_max=9, horizon=4), COST, rate=0.1)
    rule.begin(context())
    for ahead, expected in (([0.99, 0.99, 0.9, 0.99], 3), ([0.9, 0.99, 0.99, 0.99], 1)):
        distribution = Distribution(1.0, [against(each) for each in ahead])
        rule._replan(0, distribution, rule._of.chain(100), 1)
        assert rule._sure == [expected]
    rule._plans, rule._sure = [9, 9, STOP], [3, 3, 3]
    assert rule._asked([-1.5, -2.6, -9.0], 3) == [1]
    assert rule._asked([-0.9, -1.1, -9.0], 4) == [1]
    assert rule._asked([-0.1, -0.1, -0.1], 9) == [0, 1]


def test_a_round_that_stops_is_not_asked_again(
    make_chain: MakeChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = CostAware(hazard(k_max=9), COST)
    rule.begin(context(2))
    rule._plans = [1, 9]
    monkeypatch.setattr(PathCosts, "plan", lambda *_: None)
    frontier = torch.zeros(2, 1, dtype=torch.int64)
    assert rule.should_continue(make_chain([[0.9]] * 2), frontier)[:, 0].tolist() == [False, True]
    monkeypatch.setattr(rule, "_ask", None)
    again = rule.should_continue(make_chain([[0.9, 0.1], [0.9, 0.9]]), frontier + 1)
    assert again[:, 0].tolist() == [False, True]


class Told:
    """In place of `HazardNodes`: survival of one round's nodes, and the same chances after each."""

    def __init__(self, survival: list[float], ahead: list[float]) -> None:
        self._survival = survival
        self.against = [against(each) for each in ahead]
        self.families: list[Family] = []

    def judge(self, tree: DraftTree, asked: Sequence[int]) -> None:
        (_, num_ranks), depth = tree.levels[-1], tree.num_levels
        first = len(tree) - math.prod(tree.levels[-1])
        self.families = [
            Family(depth, best, best + num_ranks, self.against)
            for best in range(first, len(tree), num_ranks)
        ]

    def survival(self, row: int) -> list[float]:
        return self._survival

    def latest(self, row: int) -> list[Family]:
        return self.families


def two_levels() -> DraftTree:
    """Two children of the root, and two of each; the draft thinks little of all of them."""
    tree = DraftTree.empty(1, "cpu")
    some = torch.full((1, 1, 2), 0.2).log()
    tree = tree.grow(Level(torch.tensor([[-1]]), torch.tensor([[[1, 2]]]), some))
    ids = torch.tensor([[[3, 4], [5, 6]]])
    return tree.grow(Level(torch.tensor([[0, 1]]), ids, some.expand(1, 2, 2)))


def on_tree(
    rate: float, survival: list[float], ahead: list[float], *, node: float, width: float = 0.0
) -> CostAware:
    """A rule that is told what it would have found, in its second level, its plan at an end."""
    cost = CostModel.linear(constant=0.0, draft=1.0, verify=10.0, node=node, width=width)
    rule = CostAware(hazard(k_max=3), cost, rate=rate)
    rule.begin(context())
    rule._nodes = Told(survival, ahead)  # type: ignore[assignment]
    rule._plans = [2]
    return rule


SURVIVAL = [0.7, 0.3, 0.35, 0.035, 0.21, 0.03]


def test_a_tree_ends_where_no_path_is_worth_a_forward() -> None:
    """0.35 tokens for a second that must bring 0.4; at 0.3 they are worth it."""
    tree, frontier = two_levels(), torch.tensor([[2, 3, 4, 5]])
    rule = on_tree(0.4, SURVIVAL, [1.0, 0.0], node=0.0)
    assert not rule.should_continue(tree, frontier).any()
    assert rule._plans == [STOP]
    assert on_tree(0.3, SURVIVAL, [1.0, 0.0], node=0.0).should_continue(tree, frontier)[0, 0]


@pytest.mark.parametrize(
    ("node", "width", "expected"),
    [
        (0.0, 0.0, [2, 3, 4, 5]),  # what costs nothing brings something
        (0.0, 0.5, [2, 4]),  # a place in the forward costs 0.1 tokens
        (0.3, 0.2, [2, 4]),  # a place and a child to verify cost 0.1 tokens together
        (0.3, 0.9, [2]),
    ],
)
def test_nodes_beside_the_best_are_worth_their_places(
    node: float, width: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.cost_aware.SURPRISE", -2.0)
    rule = on_tree(0.2, SURVIVAL, [0.9, 0.0], node=node, width=width)
    tree, frontier = two_levels(), torch.tensor([[2, 3, 4, 5]])
    found = rule.should_continue(tree, frontier)
    assert (found.nonzero()[:, 1] + 2).tolist() == expected
    # Asked twice it answers the same, though it has planned meanwhile.
    assert torch.equal(rule.should_continue(tree, frontier.flip(1)), found.flip(1))


def test_between_questions_the_likeliest_child_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = on_tree(0.1, SURVIVAL, [0.9, 0.9], node=0.0)
    rule._plans = [3]
    monkeypatch.setattr("policies.cost_aware.SURPRISE", -2.0)
    found = rule.should_continue(two_levels(), torch.tensor([[2, 3, 4, 5]]))
    assert found.tolist() == [[True, False, False, False]]  # equally likely: the first
    monkeypatch.setattr("policies.cost_aware.SURPRISE", -1.0)  # 0.2 is less likely
    rule._level = 0
    assert rule.should_continue(two_levels(), torch.tensor([[2, 3, 4, 5]])).all()


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (0.0, [1, 1, 1, 1, 1, 1]),
        (0.1, [1, 1, 1, 0, 1, 0]),  # those of 0.7, 0.3, 0.35 and 0.21
        (0.65, [1, 0, 1, 0, 0, 0]),  # of 0.7 and 0.35
        (9.0, [1, 0, 0, 0, 0, 0]),  # what is drafted is drafted: one at least
    ],
)
def test_of_a_tree_it_verifies_what_pays(node: float, expected: list[int]) -> None:
    """At half a token a second."""
    rule = on_tree(0.5, SURVIVAL, [], node=node)
    tree = two_levels()
    assert rule.prune(tree, tree.valid).tolist() == [[bool(kept) for kept in expected]]
    # It leaves out, and brings nothing back.
    chosen = tree.valid.clone()
    chosen[0, 2] = False
    left = [bool(kept) and place != 2 for place, kept in enumerate(expected)]
    assert rule.prune(tree, chosen).tolist() == [left]


def test_each_text_verifies_what_pays_for_it() -> None:
    """Rounds side by side, where long contexts make nodes dear."""
    cheap, dear = ([10.0 + place * node for place in range(6)] for node in (0.1, 0.65))
    rule = on_tree(0.5, SURVIVAL, [], node=0.0)
    costs = rule._of.tree(0, 6)
    rule._of.tree = lambda at, _: replace(  # type: ignore[method-assign,assignment]
        costs, verified=dear if at else cheap
    )
    rule._contexts = [0, 1]
    one = two_levels()
    columns = ("token_ids", "parents", "log_probs", "path_log_probs", "valid")
    both = replace(one, **{name: getattr(one, name).expand(2, -1) for name in columns})
    assert rule.prune(both, both.valid).sum(1).tolist() == [4, 2]


def test_a_chain_is_verified_whole(make_chain: MakeChain) -> None:
    rule = on_tree(0.5, [0.5, 0.05], [], node=9.0)
    tree = make_chain([[0.5, 0.1]])
    assert rule.prune(tree, tree.valid) is tree.valid


def test_rules_together_verify_what_either_or_both_would() -> None:
    tree = two_levels()
    rules = [on_tree(0.5, SURVIVAL, [], node=node) for node in (0.1, 0.65)]
    assert AllOf(*rules).prune(tree, tree.valid).sum() == 4
    assert AnyOf(*rules).prune(tree, tree.valid).sum() == 2


def test_a_shape_verifies_what_its_rule_keeps() -> None:
    rule = on_tree(0.5, SURVIVAL, [], node=0.65)
    eagle = Eagle2(depth=2, width=2, nodes=6, stop=rule)
    kept = eagle.select(two_levels(), Budget(depth=2, width=2, nodes=6))
    assert kept.tolist() == [[True, False, True, False, False, False]]


def test_the_rate_is_the_best_fixed_chain_s() -> None:
    # Accepted lengths 0 to 4 alike: a chain of k emits 1 + sum of (4, 3, 2, 1) / 5.
    rule = CostAware(hazard(), COST)
    emitted = [1.0, 1.8, 2.4, 2.8, 3.0]
    assert rule.rate == pytest.approx(max(e / (10 + k) for k, e in enumerate(emitted)))
    assert rule._first == 2


def test_no_more_is_drafted_unasked_than_the_best_fixed_chain_has() -> None:
    predictor = hazard()
    predictor.get_buffer("num_accepted").copy_(torch.tensor([0.1, 0.9, 0.0, 0.0, 0.0]))
    rule = CostAware(predictor, COST, rate=0.01)
    assert (rule._first, rule.begin(context())) == (1, None)


def test_dear_drafts_are_not_begun() -> None:
    dear = CostAware(hazard(), CostModel.linear(constant=0, draft=1e6, verify=1), rate=1.0)
    is_worth = dear.begin(context(3))
    assert is_worth is not None
    assert is_worth.tolist() == [False] * 3
    free = CostAware(hazard(), CostModel.linear(constant=0, draft=0.0, verify=1), rate=1.0)
    assert free.begin(context(3)) is None


@pytest.mark.parametrize("arguments", [{"rate": 0.0}, {"rate": -1.0}, {"patience": 0.0}])
def test_wrong_arguments(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be > 0"):
        CostAware(hazard(), COST, **arguments)


def test_a_distribution_that_is_known_is_used_to_the_full() -> None:
    """Lengths 0 or 6, told by the feature: what is learned comes close to drafting just that."""
    generator = torch.Generator().manual_seed(1)
    segments = [torch.randint(0, 2, (40,), generator=generator).tolist() for _ in range(8)]
    lengths = [
        [left for segment in text for left in ([6, 5, 4, 3, 2, 1, 0] if segment else [0])]
        for text in segments
    ]
    features = [
        torch.tensor([[float(length), 1.0, 0.0, 0.0, 0.0, 0.0] for length in text])
        for text in lengths
    ]
    trace = Trace(toy_trace(lengths, k_max=8, features=features), 50)
    predictor = hazard(k_max=8, horizon=4)
    examples = predictor.examples(trace, None)
    found = trace.positions.context(examples.rows, -1)
    assert found.features is not None
    batch = {
        **examples.columns,
        "features": found.features,
        "token_ids": found.token_ids,
        "last_token_ids": found.last_token_ids,
    }
    predictor.measure(batch)
    predictor.train()
    optimizer = torch.optim.Adam(predictor.parameters(), lr=0.01)
    for _ in range(150):
        loss = predictor.loss(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    predictor.eval()

    def seconds(policy: Chain) -> float:
        rounds = replay(policy, trace).rounds
        return float(COST.round_seconds(rounds.shapes(trace.positions)).sum())

    best_fixed = min(seconds(Chain(length=length)) for length in range(1, 9))
    ours = seconds(Chain(length=8, stop=CostAware(predictor, COST)))
    assert ours < 0.96 * best_fixed  # two tokens are drafted where none is accepted
