"""Drafts made by hand or at random, and what verification found of them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers.generation.candidate_generator import AssistedCandidateGenerator

from adaeagle import ModelDrafter, Target
from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.round import grow_tree
from adaeagle.policy import Budget, Context, Outcome, Policy
from adaeagle.tree import ROOT, DraftTree, Level

MakeChain = Callable[..., DraftTree]
MakeTree = Callable[..., DraftTree]
MakeOutcome = Callable[[DraftTree, Sequence[int]], Outcome]
RowOf = Callable[[DraftTree, int], DraftTree]
DraftChain = Callable[..., int]


@pytest.fixture(scope="session")
def make_chain() -> MakeChain:
    """Chains side by side, from probs [P][N] of the tokens and entropies [P][N] at each of them."""

    def make(
        probs: Sequence[Sequence[float]], entropies: Sequence[Sequence[float]] | None = None
    ) -> DraftTree:
        log_probs = torch.tensor(probs).log()  # [P, N]
        num_rounds, length = log_probs.shape
        spread = None if entropies is None else torch.tensor(entropies)
        tree = DraftTree.empty(num_rounds, "cpu")
        for place in range(length):
            parents = torch.full((num_rounds, 1), place - 1 if place else ROOT)
            tree = tree.grow(
                Level(
                    parents,
                    torch.full((num_rounds, 1, 1), place),
                    log_probs[:, place].view(-1, 1, 1),
                    entropies=None if spread is None else spread[:, place : place + 1],
                )
            )
        return tree

    return make


@pytest.fixture(scope="session")
def make_tree() -> MakeTree:
    """A random ragged tree: (rounds side by side, seed); every level opens three nodes for two."""

    def make(num_rounds: int = 3, seed: int = 0) -> DraftTree:
        generator = torch.Generator().manual_seed(seed)
        tree = DraftTree.empty(num_rounds, "cpu")
        rows = torch.full((num_rounds, 1), ROOT)
        for _ in range(4):
            shape = (num_rounds, rows.shape[1])
            ids = torch.arange(2).expand(*shape, 2)
            distribution = torch.rand(*shape, 2, generator=generator)
            open_ = torch.ones(shape, dtype=torch.bool)
            if len(tree):
                open_ = tree.valid.gather(1, rows)
            counts = torch.randint(1, 3, shape, generator=generator) * open_
            entropies = 2 * torch.rand(shape, generator=generator)
            before = len(tree)
            tree = tree.grow(Level(rows, ids, (0.5 + 0.5 * distribution).log(), counts, entropies))
            rows = torch.arange(before, min(before + 3, len(tree))).expand(num_rounds, -1)
        return tree

    return make


@pytest.fixture(scope="session")
def row_of() -> RowOf:
    """One round of several: (tree, row)."""

    def take(tree: DraftTree, row: int) -> DraftTree:
        one: dict[str, Any] = {field.name: getattr(tree, field.name) for field in fields(tree)}
        for name, value in one.items():
            if isinstance(value, Tensor):
                one[name] = value[row : row + 1]
        return DraftTree(**one)

    return take


@pytest.fixture(scope="session")
def make_outcome() -> MakeOutcome:
    """What verifying chains found: (chains, accepted tokens of each); the next one was tested."""

    def make(tree: DraftTree, num_accepted: Sequence[int]) -> Outcome:
        accepted = tree.depths <= torch.tensor(num_accepted).unsqueeze(1)
        depth = (tree.depths * tree.valid).amax(1)
        return Outcome(
            tree=tree,
            tested=(tree.depths <= torch.tensor(num_accepted).unsqueeze(1) + 1) & tree.valid,
            accepted=accepted & tree.valid,
            num_accepted=torch.tensor(num_accepted),
            num_emitted=torch.tensor(num_accepted) + 1,
            depth=depth,
            draft_seconds=torch.zeros_like(depth, dtype=torch.float64),
            verify_seconds=torch.zeros_like(depth, dtype=torch.float64),
        )

    return make


class Script:
    """Proposes, at each depth, one token of a given probability from a distribution of a given
    entropy.
    """

    is_drawn = False
    max_depth = None

    def __init__(self, probs: Sequence[float], entropies: Sequence[float]) -> None:
        self._probs = torch.tensor(probs).log()
        self._entropies = torch.tensor(entropies)

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        place = tree.num_levels
        return Level(
            rows,
            torch.full((1, 1, 1), place),
            self._probs[place].view(1, 1, 1),
            entropies=self._entropies[place].view(1, 1),
        )


@pytest.fixture(scope="session")
def draft_chain() -> DraftChain:
    """How long a chain the drafting loop makes: (policy, probs, entropies) of what is proposed."""

    def run(
        policy: Policy, probs: Sequence[float], entropies: Sequence[float] | None = None
    ) -> int:
        one = torch.ones(1, dtype=torch.int64)
        budget: Budget = policy.plan(Context(0, one, one * 99, one, one))
        budget = replace(budget, depth=min(int(budget.depth), len(probs)))
        cpu = torch.device("cpu")
        script = Script(probs, entropies or [0.0] * len(probs))
        return grow_tree(policy, script, budget, 1, cpu, RoundClock(cpu)).num_levels

    return run


MOST_DRAFTED = 20


class AssistedRound(NamedTuple):
    """One round of assisted generation in `transformers`."""

    num_drafted: int
    num_accepted: int
    probs: list[float]  # of the drafted tokens; empty where the confidence threshold is off


@pytest.fixture
def assisted_rounds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[AssistedRound]]:
    """Assisted generation of 100 tokens: (target, drafter, prompt_ids, settings of the drafter).

    Rounds that the end of the text may have cut are left out.
    """
    rounds: list[AssistedRound] = []
    update = AssistedCandidateGenerator.update_candidate_strategy

    def note(self: Any, input_ids: Any, scores: Any, num_matches: int) -> None:
        num_drafted = scores.shape[1] - 1
        begin = input_ids.shape[1] - int(num_matches) - 1
        if begin + MOST_DRAFTED < self.main_model_max_length:
            probs = getattr(self, "probs", [])[-num_drafted:]
            rounds.append(AssistedRound(num_drafted, int(num_matches), probs))
        update(self, input_ids, scores, num_matches)

    def run(
        target: Target, drafter: ModelDrafter, prompt_ids: Sequence[int], **settings: Any
    ) -> list[AssistedRound]:
        assistant = copy.deepcopy(drafter.model.model)
        for name, value in settings.items():
            setattr(assistant.generation_config, name, value)
        prompt = torch.tensor([list(prompt_ids)])
        target.model.generate(  # type: ignore[operator]
            prompt,
            attention_mask=torch.ones_like(prompt),
            assistant_model=assistant,
            do_sample=False,
            max_new_tokens=100,
            pad_token_id=0,
        )
        return rounds

    monkeypatch.setattr(AssistedCandidateGenerator, "update_candidate_strategy", note)
    return run
