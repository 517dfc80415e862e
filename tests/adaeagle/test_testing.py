"""The conformance suite catches policies and rules that break the contract, each in one way."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adaeagle.policy import Budget, Context, Outcome, Policy, StopRule
from adaeagle.testing import PolicyContract, StopRuleContract
from adaeagle.testing.contracts import Stopped
from adaeagle.testing.toy_rounds import Agreement, ToyRound, ToyTexts
from adaeagle.tree import DraftTree

CONTRACT = PolicyContract()


class Beam(Policy):
    """Keeps the contract."""

    def plan(self, context: Context) -> Budget:
        return Budget(depth=4, width=3, nodes=8)


def test_a_sound_policy_passes() -> None:
    for name in dir(PolicyContract):
        if not name.startswith("test_"):
            continue
        test: Callable[..., None] = getattr(CONTRACT, name)
        arguments = [{"agreement": "some"}] if name == "test_answers_fit" else [{}]
        for given in arguments:
            test(Beam(), **given)


class NegativeDepth(Beam):
    def plan(self, context: Context) -> Budget:
        return Budget(depth=torch.full_like(context.remaining, -1), width=3)


class FloatDepth(Beam):
    def plan(self, context: Context) -> Budget:
        return Budget(depth=context.remaining.float(), width=3)


class OneDepthForAll(Beam):
    """Forgets that rounds run side by side."""

    def plan(self, context: Context) -> Budget:
        return Budget(depth=context.remaining[:1], width=3)


class BoolExpand(Beam):
    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        return super().expand(tree, frontier, budget) > 0


class TooWide(Beam):
    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        return torch.full_like(frontier, budget.max_children)


class TooManyChildren(Beam):
    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        return super().expand(tree, frontier, budget) * 2


class Overwrites(Beam):
    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        tree.path_log_probs.mul_(0.5)
        return super().expand(tree, frontier, budget)


class DropsParents(Beam):
    """Keeps the deepest nodes alone."""

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        return super().select(tree, budget) & (tree.depths > 1)


class TooManyNodes(Beam):
    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        return tree.valid


class KeepsPadding(Beam):
    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        if len(tree) == 0:
            return torch.arange(1, 1 + len(frontier)).unsqueeze(1)
        return torch.zeros_like(frontier)

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        return torch.ones_like(tree.valid)


class NotAsFixedAsItSays(Beam):
    static_shape = True

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        num_children = super().expand(tree, frontier, budget)
        return num_children * (tree.num_levels < 2)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (NegativeDepth(), "plan's depth must be >= 0"),
        (FloatDepth(), r"plan's depth must return torch.int64, got torch.float32"),
        (OneDepthForAll(), r"plan's depth must return \(3,\), got \(1,\)"),
        (BoolExpand(), r"expand must return torch.int64, got torch.bool"),
        (TooWide(), r"expand must open at most width=3 nodes, got \d"),
        (TooManyChildren(), r"expand must give a node at most max_children=3, got 6"),
        (Overwrites(), "expand must not change what it is given"),
        (DropsParents(), "select must keep the parent of every node it keeps"),
        (TooManyNodes(), r"select must keep at most nodes=8"),
        (KeepsPadding(), "select must keep valid nodes only"),
        (NotAsFixedAsItSays(), "static_shape must open 3 nodes in every round"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Policy) else "",
)
def test_wrong_answers(policy: Policy, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        CONTRACT.test_answers_fit(policy, "some")


class Counts(Beam):
    """Learns; its kinds below forget something."""

    learns = True

    def __init__(self) -> None:
        self.length = torch.tensor([2])

    def reset(self) -> None:
        self.length = torch.tensor([2])

    def plan(self, context: Context) -> Budget:
        return Budget(depth=self.length.expand(len(context.remaining)), width=1)

    def observe(self, outcome: Outcome) -> None:
        self.length = outcome.num_accepted + 1


class NeverResets(Counts):
    def reset(self) -> None:
        pass


class MixesRows(Counts):
    def observe(self, outcome: Outcome) -> None:
        self.length = outcome.num_accepted.max().reshape(1) + 1


class ForgetsState(NeverResets):
    """Learns across texts and saves nothing of it."""


class Unpicklable(Counts):
    def __init__(self) -> None:
        super().__init__()
        self.plus = lambda number: number + 1


def test_a_learning_policy_passes() -> None:
    CONTRACT.test_reset_begins_anew(Counts())
    CONTRACT.test_rows_do_not_meet(Counts())
    CONTRACT.test_pickle(Counts())
    CONTRACT.test_state_dict(Counts())


def test_what_learning_policies_get_wrong() -> None:
    with pytest.raises(AssertionError):
        CONTRACT.test_reset_begins_anew(NeverResets())
    with pytest.raises(AssertionError):
        CONTRACT.test_rows_do_not_meet(MixesRows())
    with pytest.raises(AssertionError):
        CONTRACT.test_state_dict(ForgetsState())
    with pytest.raises((AttributeError, TypeError), match="lambda"):
        CONTRACT.test_pickle(Unpicklable())


class Sure(StopRule):
    """Keeps the contract."""

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return tree.log_probs.gather(1, frontier) > -1.0


class Scores(Sure):
    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return tree.log_probs.gather(1, frontier)


class WholeTree(Sure):
    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return tree.valid


class FirstOnly(Sure):
    """Answers by place, not by node."""

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return torch.arange(frontier.shape[1]).expand_as(frontier) == 0


class UnannouncedEntropy(Sure):
    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        assert tree.entropies is not None, "no entropies"
        return tree.entropies.gather(1, frontier) < 1.0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Scores(), r"should_continue must return torch.bool, got torch.float32"),
        (WholeTree(), r"should_continue must return \(3, \d+\), got \(3, \d+\)"),
        (FirstOnly(), "should_continue must not depend on the order of the frontier"),
        (UnannouncedEntropy(), "no entropies"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, StopRule) else "",
)
def test_wrong_rules(rule: StopRule, message: str) -> None:
    contract = StopRuleContract()
    contract.test_answers_fit(Stopped(Sure(), depth=4, width=3), "some")
    with pytest.raises(AssertionError, match=message):
        contract.test_answers_fit(Stopped(rule, depth=4, width=3), "some")


def test_toy_texts_are_varied() -> None:
    """The target accepts all, some or none, and the draft is sure here and unsure there."""
    accepted: dict[str, list[int]] = {}
    agreements: list[Agreement] = ["all", "some", "none"]
    for agreement in agreements:
        texts = ToyTexts((1, 2, 3), (200, 200, 200), agreement)
        played: list[list[ToyRound]] = texts.play(Stopped(Sure(), depth=6, width=1), 8)
        accepted[agreement] = [done.num_accepted for rounds in played for done in rounds]
        depths = {done.depth for rounds in played for done in rounds}
        assert len(depths) >= 3
        assert all(done.num_accepted == done.depth for rounds in played for done in rounds) == (
            agreement == "all"
        )
    assert set(accepted["none"]) == {0}
    assert 0 in accepted["some"]
    assert max(accepted["some"]) >= 2
