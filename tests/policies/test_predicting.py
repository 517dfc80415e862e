"""Policies that hold a predictor: the contract, the text, and replay, whatever the weights."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
import torch

from adaeagle import Target, generate
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Prompt
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.identify import identify
from adaeagle.policy import Context, Policy, StopRule
from adaeagle.registry import lookup, names
from adaeagle.replay.replay import replay, texts_of
from adaeagle.testing import PolicyContract, StopRuleContract
from adaeagle.testing.contracts import tiny_pair
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.trace import Trace
from adaeagle.tree import DraftTree, Level
from policies import Chain, Eagle2
from predictors.base import Predictor

MakePredictor = Callable[..., Predictor]
MakeChain = Callable[..., DraftTree]
MakeTree = Callable[..., DraftTree]

RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "ldlp": ("ldlp(k_max=9, use_pending=True)", {"offset": 3.0}),
    "ldlp_ddd": ("ldlp_class(k_max=6)", {"log_threshold": -2.0}),
    "specdec_pp": ("specdec_pp(num_blocks=1)", {"max_risk": 0.9}),
    "disco": ("disco", {"threshold": 0.3}),
    "cost_aware": (
        "hazard(k_max=7)",
        {"cost": CostModel.linear(constant=0.1, draft=0.005, verify=1.0, node=0.002)},
    ),
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "c2t": ("c2t", {"depth": 4, "width": 4, "nodes": 11, "threshold": 0.05}),
}


class TestRules(StopRuleContract):
    @pytest.fixture(params=RULES)
    def rule(self, request: pytest.FixtureRequest, random_predictor: MakePredictor) -> StopRule:
        spec, arguments = RULES[request.param]
        models = identify(*tiny_pair(self.vocab_size, self.feature_size))
        rule = lookup(request.param)(random_predictor(spec, models), **arguments)
        assert isinstance(rule, StopRule)
        return rule


class TestShapes(PolicyContract):
    @pytest.fixture(params=SHAPES)
    def policy(self, request: pytest.FixtureRequest, random_predictor: MakePredictor) -> Policy:
        spec, arguments = SHAPES[request.param]
        models = identify(*tiny_pair(self.vocab_size, self.feature_size))
        policy = lookup(request.param)(random_predictor(spec, models), **arguments)
        assert isinstance(policy, Policy)
        return policy


def test_no_policy_that_holds_a_predictor_is_left_out() -> None:
    ours = {
        name
        for name in names()
        if lookup(name).__module__.startswith("policies.")
        and "predictor" in signature(lookup(name)).parameters
    }
    assert ours == {*RULES, *SHAPES}


@pytest.mark.parametrize("name", [*RULES, *SHAPES])
def test_replay_is_live(
    name: str,
    make_pair: Callable[..., tuple[Target, Drafter]],
    make_prompt: Callable[[int, int], list[int]],
    random_predictor: MakePredictor,
) -> None:
    """The same rounds, on chains and on trees, and more than one kind of round."""
    pair = make_pair("eagle")
    prompts = [Prompt(f"p{seed}", token_ids=tuple(make_prompt(9, seed))) for seed in (1, 3)]
    recorder = Recorder(*pair, ("chain(length=12)",), max_new_tokens=40)
    texts = [text for prompt in prompts for text in recorder.record(prompt)]
    trace = Trace(texts, pair[0].vocab_size, lambda: pair[1])
    spec, arguments = (RULES | SHAPES)[name]
    predictor = random_predictor(spec, identify(*pair))
    made = lookup(name)(predictor, **arguments)
    policies = [made]
    if isinstance(made, StopRule):
        policies = [Chain(stop=made), Eagle2(depth=4, width=3, nodes=9, stop=made)]
    depths = set()
    for policy in policies:
        replayed = texts_of(replay(policy, trace), trace)
        for text, rounds in zip(texts, replayed, strict=True):
            out = generate(*pair, policy, text.prompt_ids.tolist(), max_new_tokens=text.limit)
            assert out.token_ids == text.token_ids.tolist()
            assert [(r.depth, r.num_verified, r.num_accepted) for r in out.rounds] == [
                *zip(
                    rounds.depth.tolist(),
                    rounds.num_verified.tolist(),
                    rounds.num_accepted.tolist(),
                    strict=True,
                )
            ]
            depths |= {r.depth for r in out.rounds[:-1]}
    assert len(depths) > 1


@pytest.mark.parametrize("name", [*RULES, *SHAPES])
def test_other_models_are_refused(name: str, random_predictor: MakePredictor) -> None:
    target, drafter = tiny_pair(32, 16)
    other = tiny_pair(32, 32)
    spec, arguments = (RULES | SHAPES)[name]
    made = lookup(name)(random_predictor(spec, identify(target, drafter)), **arguments)
    policy = Chain(stop=made) if isinstance(made, StopRule) else made
    message = "target of predictor .* must be the one it was trained for, tiny .*, got tiny .*"
    with pytest.raises(ValueError, match=message):
        generate(*other, policy, [1, 2, 3])
    with pytest.raises(ValueError, match=r"drafter of predictor .* got none"):
        generate(target, None, policy, [1, 2, 3])


def contexts(features: torch.Tensor) -> Context:
    num = len(features)
    ids = torch.arange(num)
    return Context(0, ids + 9, ids + 99, ids, ids, features)


def test_ldlp_goes_to_the_rounded_length(
    random_predictor: MakePredictor, make_chain: MakeChain
) -> None:
    models = identify(*tiny_pair(32, 16))
    predictor = random_predictor("ldlp(k_max=5, use_embedding=False)", models)
    lengths = torch.tensor([-3.0, 0.4, 0.6, 2.5, 3.4, 99.0])
    predictor.scorer = lambda: lambda context: lengths  # type: ignore[assignment]
    for offset, expected in ((0.0, [0, 0, 1, 2, 3, 5]), (0.2, [0, 1, 1, 3, 4, 5])):
        rule = lookup("ldlp")(predictor, offset=offset)
        is_worth = rule.begin(contexts(torch.zeros(6, 16)))
        assert is_worth.tolist() == [length > 0 for length in expected]
        for depth in range(1, 7):
            chain = make_chain([[0.5] * depth] * 6)
            open_ = rule.should_continue(chain, torch.full((6, 1), depth - 1))
            assert open_[:, 0].tolist() == [length > depth for length in expected]


def test_ldlp_of_one_text_goes_as_far_as_among_many(
    random_predictor: MakePredictor, make_chain: MakeChain, make_tree: MakeTree
) -> None:
    """Alone it keeps one number; it answers for chains and trees, and rounds halves to even."""
    models = identify(*tiny_pair(32, 16))
    predictor = random_predictor("ldlp(k_max=5, use_embedding=False)", models)
    for told in (-1.0, 0.5, 1.5, 2.5, 2.51, 9.0):
        predictor.scorer = lambda told=told: (
            lambda context: torch.full((len(context.token_ids),), told)
        )  # type: ignore[assignment]
        rule = lookup("ldlp")(predictor)
        for num_rounds in (3, 1, 3):
            is_worth = rule.begin(contexts(torch.zeros(num_rounds, 16)))
            expected = min(round(told), 5)
            assert is_worth is None or is_worth.tolist() == [expected > 0] * num_rounds
            for depth in range(1, 7):
                drafted = make_chain([[0.5] * depth] * num_rounds)
                open_ = rule.should_continue(drafted, torch.full((num_rounds, 1), depth - 1))
                assert open_.tolist() == [[expected > depth]] * num_rounds
            grown = make_tree(num_rounds)
            frontier = torch.arange(3).expand(num_rounds, -1)
            open_ = rule.should_continue(grown, frontier)
            assert open_.tolist() == [[expected > grown.num_levels] * 3] * num_rounds


def test_ldlp_ddd_goes_on_as_the_more_patient(
    random_predictor: MakePredictor, make_chain: MakeChain
) -> None:
    """One text: LDLP says 2; a path above exp(-1) goes on beyond it."""
    models = identify(*tiny_pair(32, 16))
    predictor = random_predictor("ldlp(k_max=9, use_embedding=False)", models)
    predictor.scorer = lambda: lambda context: torch.tensor([2.0])  # type: ignore[assignment]
    rule = lookup("ldlp_ddd")(predictor, log_threshold=-1.0)
    for prob, last in ((0.1, 2), (0.75, 4), (0.99, 9)):
        assert rule.begin(contexts(torch.zeros(1, 16))) is None
        for depth in range(1, 9):
            open_ = rule.should_continue(make_chain([[prob] * depth]), torch.tensor([[depth - 1]]))
            assert open_.tolist() == [[depth < last]], (prob, depth)


def test_a_chain_that_becomes_a_tree(random_predictor: MakePredictor) -> None:
    """SpecDec++ adds up along paths, asked first about one node and then about a level."""
    predictor = random_predictor("specdec_pp", identify(*tiny_pair(32, 16)))
    predictor.log_odds = lambda nodes, encoded: nodes.log_probs.exp().logit()  # type: ignore[assignment]
    rule = lookup("specdec_pp")(predictor, max_risk=0.5)
    rule.begin(contexts(torch.zeros(1, 16)))

    def level(parents: list[int], probs: list[list[float]]) -> Level:
        known = torch.tensor([parents])
        return Level(
            known,
            torch.arange(len(probs[0])).expand(1, len(parents), -1),
            torch.tensor([probs]).log(),
            entropies=torch.zeros(known.shape),
            confidences=torch.zeros(*known.shape, 10),
        )

    drafted = DraftTree.empty(1, "cpu").grow(level([-1], [[0.8]]))
    assert rule.should_continue(drafted, torch.tensor([[0]])).tolist() == [[True]]
    drafted = drafted.grow(level([0], [[0.9, 0.6]]))
    assert rule.should_continue(drafted, torch.tensor([[2, 1]])).tolist() == [[False, True]]
    drafted = drafted.grow(level([1, 2], [[0.8, 0.6], [0.9, 0.9]]))
    frontier = torch.tensor([[3, 4, 5, 6]])
    assert rule.should_continue(drafted, frontier).tolist() == [[True, False, False, False]]


def test_features_that_do_not_fit(random_predictor: MakePredictor) -> None:
    rule = lookup("ldlp")(random_predictor("ldlp", identify(*tiny_pair(32, 16))))
    with pytest.raises(ValueError, match="features of predictor ldlp must be of size 16, got 8"):
        rule.begin(contexts(torch.zeros(2, 8)))
    with pytest.raises(ValueError, match="must be finite, got NaN"):
        rule.begin(contexts(torch.full((2, 16), torch.nan)))


def test_specdec_pp_multiplies_along_the_path(
    random_predictor: MakePredictor, make_chain: MakeChain
) -> None:
    """Stops where 1 - (product of acceptance) exceeds the risk: 0.8 x 0.8 is too little for 0.3."""
    predictor = random_predictor("specdec_pp", identify(*tiny_pair(32, 16)))
    odds = torch.tensor([0.8, 0.3]).logit().unsqueeze(1)
    predictor.log_odds = lambda nodes, encoded: odds.expand(nodes.depths.shape)  # type: ignore[assignment]
    rule = lookup("specdec_pp")(predictor, max_risk=0.3)
    rule.begin(contexts(torch.zeros(2, 16)))
    for depth, expected in ((1, [True, False]), (2, [False, False])):
        chain = make_chain([[0.5] * depth] * 2, [[0.5] * depth] * 2)
        assert rule.should_continue(chain, torch.full((2, 1), depth - 1))[:, 0].tolist() == expected
