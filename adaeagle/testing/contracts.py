"""What every policy and every stop rule must keep, as test classes to subclass."""

import copy
import io
import pickle
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from adaeagle.decoding.generate import generate
from adaeagle.decoding.sampling import SamplingMode
from adaeagle.drafters.causal_lm import ModelDrafter
from adaeagle.models.target import Target
from adaeagle.policy import Budget, Composite, Context, Policy, StopRule
from adaeagle.testing.checked import Checked, check_tensor, unchanged
from adaeagle.testing.toy_rounds import Agreement, ToyRound, ToyTexts
from adaeagle.tree import DraftTree

SEEDS = (3, 8, 13)
MANY = (200, 200, 200)
NUM_ROUNDS = 6
PROMPT = [1, 5, 9, 2]
LENGTH = 24


class PolicyContract:
    """Tests of one policy. Subclass it and give the fixture `policy`.

    A policy that holds a network of its own may need another `vocab_size` or `feature_size`. One
    that holds a trained predictor gets one that is made for `tiny_pair`, the models of these tests:
    for others it would refuse them. `docs/write-a-predictor.md` has the few lines.
    """

    vocab_size = 32
    feature_size = 16

    @pytest.fixture
    def policy(self) -> Policy:
        """The policy under test, as it is before its first text."""
        raise NotImplementedError(f"{type(self).__name__} must have a fixture `policy`")

    def play(
        self,
        policy: Policy,
        seeds: tuple[int, ...] = SEEDS,
        remaining: tuple[int, ...] = MANY,
        agreement: Agreement = "some",
    ) -> list[list[ToyRound]]:
        """The rounds of a few toy texts, every answer of the policy checked."""
        texts = ToyTexts(seeds, remaining, agreement, self.vocab_size, self.feature_size)
        return texts.play(Checked(policy), NUM_ROUNDS)

    @pytest.mark.parametrize("agreement", ["all", "some", "none"])
    def test_answers_fit(self, policy: Policy, agreement: Agreement) -> None:
        for rounds in self.play(policy, agreement=agreement):
            for done in rounds:
                assert len(done.verified) >= done.num_accepted
                assert agreement != "none" or done.num_accepted == 0

    def test_the_end_of_a_text(self, policy: Policy) -> None:
        """A round may not emit more than what remains; at 1 there is nothing to draft."""
        last, two, many = self.play(policy, remaining=(1, 2, 40))
        assert all(done.depth == 0 and not done.verified for done in last)
        assert all(done.depth <= 1 for done in two)
        assert sum(done.num_emitted for done in many) >= NUM_ROUNDS

    def test_an_empty_tree(self, policy: Policy) -> None:
        texts = ToyTexts(SEEDS, MANY, "some", self.vocab_size, self.feature_size)
        policy.reset()
        checked = Checked(policy)
        budget = checked.plan(texts.context(0))
        assert checked.select(DraftTree.empty(len(SEEDS), "cpu"), budget).shape == (len(SEEDS), 0)

    def test_reset_begins_anew(self, policy: Policy) -> None:
        """Two runs of the same texts are equal, from the same state of what is kept across them."""
        state = copy.deepcopy(policy.state_dict())
        first = self.play(policy)
        policy.load_state_dict(state)
        assert self.play(policy) == first

    def test_rows_do_not_meet(self, policy: Policy) -> None:
        """Texts side by side go as each would alone, which is what a replay relies on."""
        if policy.scope == "batch":
            pytest.skip("texts side by side share a budget")
        together = self.play(copy.deepcopy(policy), remaining=(200, 9, 200))
        for seed, remaining, rounds in zip(SEEDS, (200, 9, 200), together, strict=True):
            [alone] = self.play(copy.deepcopy(policy), seeds=(seed,), remaining=(remaining,))
            assert alone == rounds

    def test_pickle(self, policy: Policy) -> None:
        unpickled = pickle.loads(pickle.dumps(policy))
        assert self.play(unpickled) == self.play(policy)

    def test_state_dict(self, policy: Policy) -> None:
        """What was learned travels: as `torch.save` writes and `weights_only` reads it."""
        fresh = copy.deepcopy(policy)
        self.play(policy)
        file = io.BytesIO()
        torch.save(policy.state_dict(), file)
        file.seek(0)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        other = (5, 6, 7)
        assert self.play(fresh, seeds=other) == self.play(policy, seeds=other)

    def test_text_is_the_targets_own(self, policy: Policy) -> None:
        target, drafter = tiny_pair(self.vocab_size, self.feature_size)
        done = generate(target, drafter, policy, PROMPT, max_new_tokens=LENGTH)
        assert done.token_ids == plain_text(self.vocab_size, self.feature_size)
        assert len(done.token_ids) == 1 + sum(r.num_emitted for r in done.rounds)
        for r in done.rounds:
            assert r.num_accepted <= r.num_verified <= r.num_drafted

    def test_sampled_text(self, policy: Policy) -> None:
        """With coupled noise the text is the target's own, token for token, whatever is drafted."""
        plain = self.sample(Plain(), "coupled")
        assert self.sample(policy, "coupled") == plain

    def test_the_seed_decides(self, policy: Policy) -> None:
        state = copy.deepcopy(policy.state_dict())
        once = self.sample(policy, "rejection")
        policy.load_state_dict(state)
        assert self.sample(policy, "rejection") == once
        assert len(once) == LENGTH

    def sample(self, policy: Policy, sampling: SamplingMode) -> list[int]:
        """A text at temperature 1."""
        target, drafter = tiny_pair(self.vocab_size, self.feature_size)
        return generate(
            target,
            drafter,
            policy,
            PROMPT,
            max_new_tokens=LENGTH,
            temperature=1.0,
            sampling=sampling,
            seed=4,
        ).token_ids


class StopRuleContract(PolicyContract):
    """Tests of one stop rule, on a chain and on a tree. Subclass it and give the fixture `rule`."""

    @pytest.fixture
    def rule(self) -> StopRule:
        """The rule under test, as it is before its first text."""
        raise NotImplementedError(f"{type(self).__name__} must have a fixture `rule`")

    @pytest.fixture(params=["chain", "tree"])
    def policy(self, rule: StopRule, request: pytest.FixtureRequest) -> Policy:
        return Stopped(rule, depth=9, width=1 if request.param == "chain" else 4)


class Plain(Policy):
    """Never drafts."""

    drafts = False

    def plan(self, context: Context) -> Budget:
        return Budget(depth=0)


class Stopped(Composite, Policy):
    """A beam, or a chain, that a rule cuts short.

    Args:
        rule: closes nodes.
        depth: most draft forwards.
        width: nodes each expands, and children of each.
    """

    def __init__(self, rule: StopRule, depth: int, width: int) -> None:
        super().__init__(rule)
        self.rule = rule
        self.depth = depth
        self.width = width

    def plan(self, context: Context) -> Budget:
        with unchanged("begin", context):
            should_draft = self.rule.begin(context)
        if should_draft is None:
            return Budget(depth=self.depth, width=self.width)
        check_tensor("begin", should_draft, context.remaining.shape, torch.bool)
        return Budget(depth=self.depth * should_draft, width=self.width)

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        num_children = super().expand(tree, frontier, budget)
        if len(tree) == 0:
            return num_children
        with unchanged("should_continue", tree, frontier):
            open_ = self.rule.should_continue(tree, frontier)
        if isinstance(open_, bool):
            return num_children * open_
        check_tensor("should_continue", open_, frontier.shape, torch.bool)
        turned = self.rule.should_continue(tree, frontier.flip(1))
        assert isinstance(turned, Tensor)
        assert torch.equal(open_, turned.flip(1)), (
            "should_continue must not depend on the order of the frontier"
        )
        return num_children * open_

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        chosen = super().select(tree, budget)
        if len(tree) == 0:
            return chosen
        with unchanged("prune", tree, chosen):
            kept = self.rule.prune(tree, chosen)
        check_tensor("prune", kept, chosen.shape, torch.bool)
        assert not bool((kept & ~chosen).any()), "prune must keep a part of what was chosen"
        return kept


@cache
def tiny_pair(vocab_size: int, hidden_size: int) -> tuple[Target, ModelDrafter]:
    """A random Llama of two layers, and the same with noise on its weights."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        noisy = copy.deepcopy(model)
        with torch.no_grad():
            for matrix in noisy.parameters():
                if matrix.ndim > 1:
                    matrix.add_(0.05 * matrix.std() * torch.randn_like(matrix))
    target = Target(model, name="tiny")
    return target, ModelDrafter(Target(noisy, name="tiny draft"), target)


@cache
def plain_text(vocab_size: int, hidden_size: int) -> list[int]:
    """What `transformers` makes of the prompt with the target of `tiny_pair`."""
    target, _ = tiny_pair(vocab_size, hidden_size)
    prompt = torch.tensor([PROMPT])
    output = target.model.generate(  # type: ignore[operator]
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=LENGTH
    )
    return output[0, len(PROMPT) :].tolist()  # type: ignore[no-any-return]
