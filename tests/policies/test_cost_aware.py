"""Drafting on while it earns its time: the rule by hand, and what it makes of a trace."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise
from operator import mul

import pytest
import torch
from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.identity import ModelIdentity
from adaeagle.policy import Budget, Context
from adaeagle.replay.replay import replay
from adaeagle.testing.toy_trace import toy_trace
from adaeagle.trace.trace import Trace
from adaeagle.tree import DraftTree, Level
from policies import AllOf, AnyOf, Chain, Eagle2
from policies.cost_aware import CostAware
from policies.support.round_costs import PathCosts, TreeCosts
from predictors.base import Metadata
from predictors.hazard.network import HazardPredictor

MODELS = ModelIdentity("t", "1", "d", "2", feature_size=6, vocab_size=50, dtype="float32")
COST = CostModel.linear(constant=0.0, draft=1.0, verify=10.0)

MakeChain = Callable[..., DraftTree]


def hazard(k_max: int = 4, horizon: int = 2) -> HazardPredictor:
    torch.manual_seed(0)
    predictor = HazardPredictor(k_max=k_max, horizon=horizon, hidden_size=8)
    predictor.prepare(Metadata(MODELS), torch.randn(50, 6))
    predictor.get_buffer("num_accepted").copy_(torch.ones(k_max + 1) / (k_max + 1))
    return predictor.eval()


class Certain(HazardPredictor):
    """Answers the same after every drafted token: accepted with `accept`, then `ahead`.

    Tokens from 40 on have acceptances of their own, in `of_token`.
    """

    def __init__(self, accept: float, ahead: list[float], k_max: int, **of_token: float) -> None:
        super().__init__(k_max=k_max, horizon=len(ahead), hidden_size=8)
        self.answer = torch.tensor([accept, *ahead])
        self.of_token = {int(name[1:]): each for name, each in of_token.items()}

    def log_odds(self, encoded: Tensor, scalars: Tensor, token_ids: Tensor | None = None) -> Tensor:
        answers = self.answer.repeat(len(scalars), 1)
        for row, token in enumerate([] if token_ids is None else token_ids.tolist()):
            answers[row, 0] = self.of_token.get(token, answers[row, 0])
        return answers.logit()


def certain(accept: float, ahead: list[float], k_max: int = 4, **of_token: float) -> Certain:
    predictor = Certain(accept, ahead, k_max, **of_token)
    predictor.prepare(Metadata(MODELS), torch.randn(50, 6))
    predictor.get_buffer("num_accepted").copy_(torch.ones(k_max + 1) / (k_max + 1))
    return predictor.eval()


def context(num_rounds: int = 1, num_tokens: int = 16) -> Context:
    ids = torch.full((num_rounds,), 7)
    return Context(
        0,
        torch.full((num_rounds,), num_tokens),
        ids + 99,
        ids,
        ids,
        torch.zeros(num_rounds, 6),
        lambda n: [[7]] * num_rounds,
    )


def goes_on(rule: CostAware, chain: DraftTree) -> bool:
    """Whether a rule goes on after a chain."""
    rule.begin(context())
    frontier = torch.full((1, 1), len(chain) - 1)
    return bool(rule.should_continue(chain, frontier))


def test_a_token_earns_its_time_or_not(make_chain: MakeChain) -> None:
    """At half a token a second, a forward of a second must bring half a token."""
    one = make_chain([[0.9]])
    assert goes_on(CostAware(certain(1.0, [0.6, 0.0]), COST, rate=0.5), one)
    assert not goes_on(CostAware(certain(1.0, [0.4, 0.0]), COST, rate=0.5), one)
    # What hangs from an unsure token is unsure.
    assert not goes_on(CostAware(certain(0.5, [0.6, 0.0]), COST, rate=0.5), one)
    # Below 1, patience drafts longer than it pays.
    assert goes_on(CostAware(certain(1.0, [0.4, 0.0]), COST, rate=0.5, patience=0.7), one)


def test_it_looks_ahead(make_chain: MakeChain) -> None:
    """A forward that does not pay alone may lead to some that do."""
    # The second forward costs nothing in verification: three tokens a seventh of the time each.
    costs = PathCosts([0.0, 1.0, 2.0, 2.1, 2.2], 0.1)
    assert costs.pays(1.0, [0.9, 1.0, 1.0], 1, 1.0)  # 0.9 < 1.0, and 2.7 > 1.2
    assert not costs.pays(1.0, [0.9, 0.1, 0.1], 1, 1.0)
    assert not costs.pays(1.0, [0.05, 1.0, 1.0], 1, 1.0)


def test_beyond_the_horizon_it_goes_on_as_at_its_end() -> None:
    costs = PathCosts([0.0, 1.0, 3.0, 3.1, 3.2, 3.3], 0.1)
    assert costs.pays(1.0, [0.9], 1, 1.0)  # 0.9 + 0.81 + 0.73 + 0.66 > 2.3
    assert not costs.pays(1.0, [0.6], 1, 1.0)


def test_no_length_that_pays_is_overlooked() -> None:
    """Looking ahead ends early: with the answer that looking at all lengths gives."""
    draw = random.Random(0)
    answers = set()
    for _ in range(300):
        seconds = list(accumulate((draw.uniform(0.2, 1.0) for _ in range(12)), initial=5.0))
        least = min(after - before for before, after in pairwise(seconds))
        alive, ahead, depth = draw.random(), [draw.random() ** 0.3 for _ in range(4)], 3
        chances = accumulate([*ahead, *[ahead[-1]] * 5], mul, initial=alive)
        tokens = list(accumulate(list(chances)[1:]))
        gains = [brought - 0.6 * (seconds[4 + n] - seconds[3]) for n, brought in enumerate(tokens)]
        answers.add(max(gains) > 0)
        assert PathCosts(seconds, least).pays(alive, ahead, depth, 0.6) == (max(gains) > 0)
    assert answers == {True, False}


def test_rounds_side_by_side_are_decided_each_by_itself(make_chain: MakeChain) -> None:
    rule = CostAware(certain(1.0, [0.9, 0.0], t1=0.3), COST, rate=0.5)
    rule.begin(context(2))
    chain = make_chain([[0.9]] * 2)
    chain.token_ids[1] = 1
    open_ = rule.should_continue(chain, torch.zeros(2, 1, dtype=torch.int64))
    assert open_[:, 0].tolist() == [True, False]


def two_levels(num_rounds: int = 1) -> DraftTree:
    """Two children of the root, and two of each; the draft thinks little of all of them."""
    some = torch.full((num_rounds, 1, 2), 0.2).log()
    root, both = torch.tensor([[-1]]), torch.tensor([[0, 1]])
    tree = DraftTree.empty(num_rounds, "cpu").grow(
        Level(root.expand(num_rounds, -1), torch.tensor([[[1, 2]]]).expand_as(some), some)
    )
    ids = torch.tensor([[[3, 4], [5, 6]]]).expand(num_rounds, -1, -1)
    return tree.grow(Level(both.expand(num_rounds, -1), ids, some.expand(num_rounds, 2, 2)))


def on_tree(rate: float, ahead: list[float], *, node: float, width: float = 0.0) -> CostAware:
    """A rule by which `two_levels` survives with 0.7, 0.3, 0.35, 0.35, 0.21 and 0.09."""
    cost = CostModel.linear(constant=0.0, draft=1.0, verify=10.0, node=node, width=width)
    rule = CostAware(certain(0.7, ahead, k_max=3, t3=0.5), cost, rate=rate)
    rule.begin(context())
    return rule


FRONTIER = torch.tensor([[2, 3, 4, 5]])


def test_a_tree_ends_where_no_path_earns_a_forward() -> None:
    """0.35 tokens for a second that must bring 0.4; at a rate of 0.3 they earn it."""
    tree = two_levels()
    assert not on_tree(0.4, [1.0, 0.0], node=0.0).should_continue(tree, FRONTIER).any()
    assert on_tree(0.3, [1.0, 0.0], node=0.0).should_continue(tree, FRONTIER)[0, 0]


@pytest.mark.parametrize(
    ("node", "width", "expected"),
    [
        (0.0, 0.0, [2, 3, 4, 5]),  # what costs nothing brings something
        (0.0, 0.5, [2, 3, 4]),  # a place in the forward costs 0.1 tokens
        (0.3, 0.2, [2, 3, 4]),  # a place and a child to verify cost 0.1 tokens together
        (0.3, 0.9, [2, 3]),  # 0.24
    ],
)
def test_nodes_beside_the_best_pay_for_their_places(
    node: float, width: float, expected: list[int]
) -> None:
    rule, tree = on_tree(0.2, [0.9, 0.0], node=node, width=width), two_levels()
    found = rule.should_continue(tree, FRONTIER)
    assert (found.nonzero()[:, 1] + 2).tolist() == expected
    # Asked twice it answers the same.
    assert torch.equal(rule.should_continue(tree, FRONTIER.flip(1)), found.flip(1))


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (0.0, [1, 1, 1, 1, 1, 1]),
        (0.3, [1, 1, 1, 1, 1, 0]),  # at half a token a second a node must bring 0.15
        (0.65, [1, 0, 1, 1, 0, 0]),
        (9.0, [1, 0, 0, 0, 0, 0]),  # what is drafted is drafted: one at least
    ],
)
def test_of_a_tree_it_verifies_what_pays(node: float, expected: list[int]) -> None:
    rule, tree = on_tree(0.5, [0.0], node=node), two_levels()
    assert rule.prune(tree, tree.valid).tolist() == [[bool(kept) for kept in expected]]
    # It leaves out, and brings nothing back.
    chosen = tree.valid.clone()
    chosen[0, 2] = False
    assert not (rule.prune(tree, chosen) & ~chosen).any()


def test_each_text_verifies_what_pays_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds side by side, of which a long context makes the nodes dear."""
    dear = {10: 0.1, 10_000: 0.65}
    paths = PathCosts([10.0, 11.0], 1.0)
    monkeypatch.setattr(
        "policies.cost_aware.RoundCosts.tree",
        lambda self, at, num: TreeCosts(
            paths, [1.0] * 6, [10 + place * dear[at] for place in range(6)], 0.0
        ),
    )
    rule, tree = on_tree(0.5, [0.0], node=0.0), two_levels(2)
    both = context(2)
    both.num_tokens[:] = torch.tensor([11, 10_001])
    rule.begin(both)
    assert rule.prune(tree, tree.valid).sum(1).tolist() == [6, 3]


def test_a_chain_is_verified_whole(make_chain: MakeChain) -> None:
    tree = make_chain([[0.5, 0.1]])
    assert on_tree(0.5, [0.0], node=9.0).prune(tree, tree.valid) is tree.valid


def test_rules_together_verify_what_either_or_both_would() -> None:
    tree = two_levels()
    rules = [on_tree(0.5, [0.0], node=node) for node in (0.3, 0.65)]
    assert AllOf(*rules).prune(tree, tree.valid).sum() == 5
    assert AnyOf(*rules).prune(tree, tree.valid).sum() == 3


def test_a_shape_verifies_what_its_rule_keeps() -> None:
    eagle = Eagle2(depth=2, width=2, nodes=6, stop=on_tree(0.5, [0.0], node=0.65))
    kept = eagle.select(two_levels(), Budget(depth=2, width=2, nodes=6))
    assert kept.tolist() == [[True, False, True, True, False, False]]


def test_the_rate_is_the_best_fixed_chain_s() -> None:
    # Accepted lengths 0 to 4 alike: a chain of k emits 1 + sum of (4, 3, 2, 1) / 5.
    rule = CostAware(hazard(), COST)
    emitted = [1.0, 1.8, 2.4, 2.8, 3.0]
    assert rule.rate == pytest.approx(max(e / (10 + k) for k, e in enumerate(emitted)))


def test_dear_drafts_are_not_begun() -> None:
    dear = CostAware(hazard(), CostModel.linear(constant=0, draft=1e6, verify=1), rate=1.0)
    drafts = dear.begin(context(3))
    assert drafts is not None
    assert drafts.tolist() == [False] * 3
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


def test_the_cost_table_of_other_models_is_refused() -> None:
    rule = CostAware(hazard(), COST)
    rule.check(lambda: MODELS)
    others = {"target": "mini", "drafter": "mini", "target_weights": "9", "drafter_weights": "2"}
    rule = CostAware(hazard(), replace(COST, about={"config": others}))
    with pytest.raises(ValueError, match=r"its target must have the weights .* table is of 'mini'"):
        rule.check(lambda: MODELS)
