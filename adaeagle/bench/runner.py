"""Runs policies side by side: every prompt under every arm, in an order that rotates."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from adaeagle.bench.divergence import first_difference, top2_gap
from adaeagle.bench.records import (
    ArmRecord,
    Divergence,
    PromptRecord,
    pack_states,
    unpack_states,
)
from adaeagle.data.prompts import Conversation, Prompt
from adaeagle.decoding.generate import generate
from adaeagle.decoding.sampling import Sampling
from adaeagle.drafters.base import Drafter
from adaeagle.models.target import Target
from adaeagle.policy import Policy
from adaeagle.records import Generation
from adaeagle.registry import get_policy

BASELINE = "vanilla"
WARM_UP_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Bench:
    """A set of arms on one target and drafter.

    Every turn is asked of all arms with the same history, the baseline's answers, so that the arms
    answer the same questions even where sampling gives them different texts. A policy that learns
    across prompts sees them in the order given, from a fresh state.

    Args:
        target: whose text it is.
        drafter: of every arm; None is enough where no arm drafts.
        policies: the arms by name, the baseline `vanilla` among them.
        sampling: the distribution of the text; each turn of each prompt gets a seed of its own from
            it.
        max_new_tokens: of each answer.
    """

    target: Target
    drafter: Drafter | None
    policies: dict[str, Policy]
    sampling: Sampling
    max_new_tokens: int

    @property
    def compares_texts(self) -> bool:
        """Whether all arms must give the same text."""
        return self.sampling.is_greedy or self.sampling.is_coupled

    def warm_up(self, prompt: Prompt) -> None:
        """Runs every arm on the first tokens of an answer, and forgets what it learned from it."""
        brief = replace(
            self,
            policies=deepcopy(self.policies),
            max_new_tokens=min(WARM_UP_TOKENS, self.max_new_tokens),
        )
        brief._measure(prompt, list(self.policies))

    def run(
        self, prompts: Sequence[Prompt], finished: Sequence[PromptRecord] = ()
    ) -> Iterator[PromptRecord]:
        """Measures the prompts that are not in `finished`, going on from its last state."""
        if finished:
            for name, state in unpack_states(finished[-1].policy_states).items():
                self.policies[name].load_state_dict(state)
        known: Collection[str] = {record.id for record in finished}
        names = list(self.policies)
        for number, prompt in enumerate(prompts):
            first = number % len(names)
            if prompt.id not in known:
                yield self._measure(prompt, names[first:] + names[:first])

    def _measure(self, prompt: Prompt, order: list[str]) -> PromptRecord:
        talk = Conversation(self.target, prompt)
        answers: dict[str, list[Generation]] = {name: [] for name in order}
        divergences: list[Divergence] = []
        while (token_ids := talk.next_ids()) is not None:
            turn = talk.num_answered
            for name in order:
                answers[name].append(self._answer(name, prompt, turn, token_ids))
            if self.compares_texts:
                last = {name: given[-1].token_ids for name, given in answers.items()}
                divergences += self._compare(token_ids, turn, last)
            talk.answer(answers[BASELINE][-1].token_ids)
        states = {name: policy.state_dict() for name, policy in self.policies.items()}
        return PromptRecord(
            id=prompt.id,
            category=prompt.category,
            source=prompt.source,
            num_turns=talk.num_answered,
            order=order,
            arms={name: ArmRecord.of(answers[name]) for name in self.policies},
            divergences=divergences,
            policy_states=pack_states(states),
        )

    def _answer(self, name: str, prompt: Prompt, turn: int, token_ids: list[int]) -> Generation:
        chosen_sampling = self.sampling
        return generate(
            self.target,
            self.drafter,
            self.policies[name],
            token_ids,
            max_new_tokens=self.max_new_tokens,
            temperature=chosen_sampling.temperature,
            top_p=chosen_sampling.top_p,
            top_k=chosen_sampling.top_k,
            sampling=chosen_sampling.mode,
            seed=text_seed(chosen_sampling.seed, prompt.id, turn),
        )

    def _compare(
        self, token_ids: list[int], turn: int, answers: dict[str, list[int]]
    ) -> Iterator[Divergence]:
        """Where the arms' answers to one turn leave the baseline's."""
        plain = answers[BASELINE]
        for name, answer in answers.items():
            position = first_difference(plain, answer)
            if position is not None:
                same = token_ids + plain[:position]
                gap = top2_gap(self.target, same) if self.sampling.is_greedy else None
                yield Divergence(name, turn, position, gap)


def make_arms(specs: Sequence[str]) -> dict[str, Policy]:
    """Policies by their spec, the baseline first where it is not listed.

    Raises:
        ValueError: a spec is unknown, malformed or listed twice.
    """
    arms: dict[str, Policy] = {}
    for spec in [*([] if BASELINE in specs else [BASELINE]), *specs]:
        if spec in arms:
            raise ValueError(f"policies must differ, got {spec!r} twice")
        arms[spec] = get_policy(spec)
    return arms


def text_seed(seed: int, prompt_id: str, turn: int) -> int:
    """The seed of one answer: the same for every arm and every order of prompts."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt_id}/{turn}".encode()).digest()[:6])
