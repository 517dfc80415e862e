"""Holds the text of every policy against plain decoding, token for token.

The reference is `transformers`, which shares no decoding code with this package, or `vanilla`.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from adaeagle.bench.divergence import first_difference, top2_gap
from adaeagle.bench.records import pack_states, unpack_states
from adaeagle.data.prompts import Conversation, Prompt
from adaeagle.decoding.generate import generate
from adaeagle.drafters.base import Drafter
from adaeagle.models.target import Target
from adaeagle.policy import Policy

NEAR_TIE = 1e-4
"""Below this gap of the target's two best logits, correct float32 forwards may differ."""


@dataclass(frozen=True, slots=True)
class ArmAudit:
    """One policy on one prompt, all turns together."""

    num_compared: int  # tokens, up to and with the first that differs in a turn
    num_rounds: int
    num_accepted: int  # drafted tokens that were accepted: without any, an audit shows little


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a policy's text first differs from the reference's."""

    policy: str
    turn: int
    position: int  # 0 is the answer's first token
    expected: int | None  # the reference's token; None: its text ends here
    found: int | None
    top2_gap: float | None  # of the target's logits there; None where one text ends

    @property
    def is_near_tie(self) -> bool:
        """Whether rounding explains it; an end that comes too early or late is no rounding."""
        return self.top2_gap is not None and self.top2_gap <= NEAR_TIE


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One prompt under every policy."""

    id: str
    category: str
    source: str
    num_turns: int
    num_tokens: int  # of the reference's answers
    arms: dict[str, ArmAudit]
    divergences: list[Parting]
    policy_states: str  # what policies that learn across prompts knew afterwards

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "AuditRecord":
        arms = {name: ArmAudit(**arm) for name, arm in raw["arms"].items()}
        divergences = [Parting(**found) for found in raw["divergences"]]
        return cls(**{**raw, "arms": arms, "divergences": divergences})


class Reference(Protocol):
    """Plain decoding at temperature 0."""

    def text(self, prompt_ids: Sequence[int]) -> list[int]:
        """The whole answer."""
        ...

    def gap(self, prompt_ids: Sequence[int], text: Sequence[int], position: int) -> float:
        """Between the target's two best logits for `text[position]`."""
        ...


class TransformersReference:
    """`generate` of `transformers`, with its own cache, stopping and processors.

    Args:
        target: whose model is run.
        max_new_tokens: of an answer.
    """

    def __init__(self, target: Target, max_new_tokens: int) -> None:
        self._target = target
        self._max_new_tokens = max_new_tokens

    def text(self, prompt_ids: Sequence[int]) -> list[int]:
        text_ids: list[int] = self._generate(prompt_ids).sequences[0, len(prompt_ids) :].tolist()
        return text_ids

    def gap(self, prompt_ids: Sequence[int], text: Sequence[int], position: int) -> float:
        # The scores of the very run that emitted `text`.
        scores = self._generate(prompt_ids, output_scores=True).scores[position][0]
        best, second = scores.float().topk(2).values.tolist()
        return float(best - second)

    @torch.inference_mode()
    def _generate(self, prompt_ids: Sequence[int], **settings: Any) -> Any:
        model = self._target.model
        ids = torch.tensor([list(prompt_ids)], device=self._target.device)
        config = model.generation_config
        ends = config.eos_token_id if isinstance(config, GenerationConfig) else None
        end = ends[0] if isinstance(ends, list) else ends
        return model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            max_new_tokens=min(self._max_new_tokens, self._target.max_length - len(prompt_ids)),
            pad_token_id=0 if end is None else end,  # there is nothing to pad
            return_dict_in_generate=True,
            **settings,
        )


class VanillaReference:
    """Plain decoding by this package's own engine.

    Args:
        target: whose text it is.
        max_new_tokens: of an answer.
    """

    def __init__(self, target: Target, max_new_tokens: int) -> None:
        self._target = target
        self._max_new_tokens = max_new_tokens

    def text(self, prompt_ids: Sequence[int]) -> list[int]:
        limit = self._max_new_tokens
        return generate(self._target, None, "vanilla", prompt_ids, max_new_tokens=limit).token_ids

    def gap(self, prompt_ids: Sequence[int], text: Sequence[int], position: int) -> float:
        return top2_gap(self._target, [*prompt_ids, *text[:position]])


@dataclass(frozen=True, slots=True)
class Audit:
    """A set of policies on one target and drafter, held against one reference.

    Every turn is decoded with the reference's own answers as its history. A policy that learns
    across prompts sees them in the order given.
    """

    target: Target
    drafter: Drafter | None
    policies: dict[str, Policy]
    reference: Reference
    max_new_tokens: int

    def run(
        self, prompts: Sequence[Prompt], finished: Sequence[AuditRecord] = ()
    ) -> Iterator[AuditRecord]:
        """Audits the prompts that are not in `finished`, going on from its last state."""
        if finished:
            for name, state in unpack_states(finished[-1].policy_states).items():
                self.policies[name].load_state_dict(state)
        known: Collection[str] = {record.id for record in finished}
        for prompt in prompts:
            if prompt.id not in known:
                yield self._audit(prompt)

    def _audit(self, prompt: Prompt) -> AuditRecord:
        talk = Conversation(self.target, prompt)
        arms = dict.fromkeys(self.policies, ArmAudit(0, 0, 0))
        divergences: list[Parting] = []
        num_tokens = 0
        while (prompt_ids := talk.next_ids()) is not None:
            expected = self.reference.text(prompt_ids)
            num_tokens += len(expected)
            for name, before in arms.items():
                arms[name], parting = self._hold(name, talk.num_answered, prompt_ids, expected)
                arms[name] = _sum(before, arms[name])
                divergences += [] if parting is None else [parting]
            talk.answer(expected)
        states = {name: policy.state_dict() for name, policy in self.policies.items()}
        return AuditRecord(
            id=prompt.id,
            category=prompt.category,
            source=prompt.source,
            num_turns=talk.num_answered,
            num_tokens=num_tokens,
            arms=arms,
            divergences=divergences,
            policy_states=pack_states(states),
        )

    def _hold(
        self, name: str, turn: int, prompt_ids: list[int], expected: list[int]
    ) -> tuple[ArmAudit, Parting | None]:
        """One policy's answer to one turn against the reference's."""
        out = generate(
            self.target,
            self.drafter,
            self.policies[name],
            prompt_ids,
            max_new_tokens=self.max_new_tokens,
        )
        found = out.token_ids
        position = first_difference(expected, found)
        parting = None
        if position is not None:
            both_go_on = position < min(len(expected), len(found))
            parting = Parting(
                policy=name,
                turn=turn,
                position=position,
                expected=expected[position] if position < len(expected) else None,
                found=found[position] if position < len(found) else None,
                top2_gap=(
                    self.reference.gap(prompt_ids, expected, position) if both_go_on else None
                ),
            )
        num_compared = len(expected) if position is None else position + 1
        num_accepted = sum(round_.num_accepted for round_ in out.rounds)
        return ArmAudit(num_compared, len(out.rounds), num_accepted), parting


def _sum(one: ArmAudit, other: ArmAudit) -> ArmAudit:
    return ArmAudit(
        one.num_compared + other.num_compared,
        one.num_rounds + other.num_rounds,
        one.num_accepted + other.num_accepted,
    )
