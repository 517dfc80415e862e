"""Rules made of rules."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle import DraftTree, get_policy
from adaeagle.policy import Outcome, StopRule
from adaeagle.registry import build
from adaeagle.tree import ROOT, Level
from policies import AdaEDL, AllOf, AnyOf, BeamTotal, Confidence, Cumulative, HFHeuristic

MakeChain = Callable[..., DraftTree]
MakeOutcome = Callable[[DraftTree, Sequence[int]], Outcome]


class Says(StopRule):
    """Answers what it was told to."""

    def __init__(self, *answers: bool) -> None:
        self.answers = torch.tensor([answers])

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return self.answers


ONE = Says(True, True, False, False)
OTHER = Says(True, False, True, False)


@pytest.fixture
def four(make_chain: MakeChain) -> tuple[DraftTree, Tensor]:
    return make_chain([[0.9, 0.8, 0.7, 0.6]]), torch.arange(4).unsqueeze(0)


def test_all_of_closes_when_all_say_so(four: tuple[DraftTree, Tensor]) -> None:
    assert AllOf(ONE, OTHER).should_continue(*four).tolist() == [[True, True, True, False]]


def test_any_of_closes_when_one_says_so(four: tuple[DraftTree, Tensor]) -> None:
    assert AnyOf(ONE, OTHER).should_continue(*four).tolist() == [[True, False, False, False]]


def test_nested(four: tuple[DraftTree, Tensor]) -> None:
    nobody = Says(False, False, False, False)
    assert AnyOf(ONE, AllOf(OTHER, nobody)).should_continue(*four).tolist() == [
        [True, False, False, False]
    ]
    assert AllOf(nobody, AnyOf(ONE, OTHER)).should_continue(*four).tolist() == [
        [True, False, False, False]
    ]
    assert torch.equal(AllOf(ONE).should_continue(*four), ONE.should_continue(*four))
    assert torch.equal(AnyOf(ONE).should_continue(*four), ONE.should_continue(*four))


def test_the_longer_and_the_shorter_draft(draft_chain: Callable[..., int]) -> None:
    """Confidence .6 stops at the second token, a length of four at the fourth."""
    probs = [0.9, 0.5, 0.9, 0.9, 0.9]
    both = "confidence(threshold=0.6), hf_heuristic(start=4)"
    assert draft_chain(get_policy(f"any_of({both})"), probs) == 2
    assert draft_chain(get_policy(f"all_of({both})"), probs) == 5  # at four it was sure again
    assert draft_chain(get_policy(f"all_of({both})"), [0.9, 0.5, 0.9, 0.5, 0.9]) == 4


def test_a_rule_for_the_level_and_one_for_nodes() -> None:
    """Where the level is left, `any_of` ends the draft; `all_of` leaves what the other keeps."""
    tree = DraftTree.empty(1, "cpu").grow(
        Level(torch.tensor([[ROOT]]), torch.tensor([[[0, 1]]]), torch.tensor([[[0.6, 0.1]]]).log())
    )
    frontier = torch.tensor([[0, 1]])
    level, node = BeamTotal(depths=None), Confidence(threshold=0.5)
    assert not level.should_continue(tree, frontier).any()
    assert not AnyOf(level, node).should_continue(tree, frontier).any()
    assert AllOf(level, node).should_continue(tree, frontier).tolist() == [[True, False]]


def test_flags() -> None:
    plain = AllOf(Confidence(), Cumulative())
    assert not plain.learns
    assert not plain.needs.entropy
    assert AnyOf(Confidence(), HFHeuristic()).learns
    assert not AnyOf(Confidence(), HFHeuristic()).needs.entropy
    nested = AnyOf(Confidence(), AllOf(Cumulative(), AdaEDL()))
    assert nested.learns
    assert nested.needs.entropy
    policy = get_policy("eagle2(stop=any_of(confidence, all_of(cumulative, adaedl)))")
    assert policy.learns
    assert policy.needs.entropy


class Notes(StopRule):
    """Writes down what it is told."""

    def __init__(self, learns: bool) -> None:
        self.learns = learns
        self.told: list[str] = []

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return torch.ones_like(frontier, dtype=torch.bool)

    def reset(self) -> None:
        self.told.append("reset")

    def observe(self, outcome: Outcome) -> None:
        self.told.append("observe")


@pytest.mark.parametrize("kind", [AllOf, AnyOf])
def test_every_rule_hears_what_it_should(
    kind: type[AllOf | AnyOf], make_chain: MakeChain, make_outcome: MakeOutcome
) -> None:
    """`observe` is for those that learn, whatever else the combination holds."""
    keen, idle = Notes(learns=True), Notes(learns=False)
    rule = kind(idle, AllOf(keen))
    rule.reset()
    rule.observe(make_outcome(make_chain([[0.5]]), [1]))
    assert keen.told == ["reset", "observe"]
    assert idle.told == ["reset"]


def test_what_was_learned_finds_its_rule(make_chain: MakeChain, make_outcome: MakeOutcome) -> None:
    spec = (
        "any_of(confidence, hf_heuristic(across_texts=True), all_of(hf_dynamic(across_texts=True)))"
    )
    taught, fresh = build(spec), build(spec)
    for _ in range(3):
        taught.observe(make_outcome(make_chain([[0.9, 0.8, 0.7, 0.6, 0.5]]), [4]))
    state: dict[str, Any] = taught.state_dict()
    assert set(state) == {"1", "2"}
    fresh.load_state_dict(state)
    assert int(fresh.rules[1].num_tokens) == 2
    assert float(fresh.rules[2].rules[0].threshold) == pytest.approx(0.6)
    assert build("all_of(confidence, hf_dynamic)").state_dict() == {}


def test_wrong_rules() -> None:
    with pytest.raises(ValueError, match="rules must hold at least one stop rule, got none"):
        get_policy("all_of()")
    with pytest.raises(
        ValueError, match=r"rules must be stop rules such as confidence\(\), got 0.4"
    ):
        get_policy("any_of(confidence, 0.4)")
    with pytest.raises(ValueError, match=r"rules must be stop rules .* got Chain\("):
        get_policy("any_of(chain)")
