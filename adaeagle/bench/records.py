"""What one prompt leaves behind: for every arm the same counts and seconds."""

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from adaeagle.records import Generation


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """One policy on one prompt, all turns together; the lists have one entry a round."""

    num_tokens: int
    seconds: float  # prefill included
    prefill_seconds: float
    draft_seconds: float
    verify_seconds: float
    policy_seconds: float
    other_seconds: float
    depth: list[int] = field(repr=False)  # draft forwards
    num_drafted: list[int] = field(repr=False)
    num_verified: list[int] = field(repr=False)
    num_accepted: list[int] = field(repr=False)
    num_emitted: list[int] = field(repr=False)

    @classmethod
    def of(cls, answers: Sequence[Generation]) -> "ArmRecord":
        """The record of one prompt's answers, a generation a turn."""
        rounds = [found for answer in answers for found in answer.rounds]
        return cls(
            num_tokens=sum(len(answer.token_ids) for answer in answers),
            seconds=sum(answer.seconds for answer in answers),
            prefill_seconds=sum(answer.prefill_seconds for answer in answers),
            draft_seconds=sum(found.draft_seconds for found in rounds),
            verify_seconds=sum(found.verify_seconds for found in rounds),
            policy_seconds=sum(found.policy_seconds for found in rounds),
            other_seconds=sum(found.other_seconds for found in rounds),
            depth=[found.depth for found in rounds],
            num_drafted=[found.num_drafted for found in rounds],
            num_verified=[found.num_verified for found in rounds],
            num_accepted=[found.num_accepted for found in rounds],
            num_emitted=[found.num_emitted for found in rounds],
        )


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where an arm's text first differs from the baseline's, though it should not."""

    policy: str
    turn: int
    position: int  # of the first differing token, 0 being the answer's first
    top2_gap: float | None  # between the target's two best logits there, at temperature 0


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """One prompt under every arm."""

    id: str
    category: str
    source: str
    num_turns: int  # answered; fewer than asked where the history filled the context
    order: list[str]  # in which the arms ran
    arms: dict[str, ArmRecord]
    divergences: list[Divergence]
    policy_states: str  # what arms that learn across prompts knew afterwards, see `pack_states`

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "PromptRecord":
        arms = {name: ArmRecord(**arm) for name, arm in raw["arms"].items()}
        divergences = [Divergence(**found) for found in raw["divergences"]]
        return cls(**{**raw, "arms": arms, "divergences": divergences})


def pack_states(states: dict[str, dict[str, Any]]) -> str:
    """Policies' `state_dict`s, tensors included, as text for a JSON line; "" if all are empty."""
    known = {name: state for name, state in states.items() if state}
    if not known:
        return ""
    buffer = io.BytesIO()
    torch.save(known, buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def unpack_states(text: str) -> dict[str, dict[str, Any]]:
    """What `pack_states` was given."""
    if not text:
        return {}
    packed = io.BytesIO(base64.b64decode(text))
    states: dict[str, dict[str, Any]] = torch.load(packed, weights_only=True)
    return states
