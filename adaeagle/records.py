"""What a generated text leaves behind: its tokens, its rounds, its seconds."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Round:
    """One draft/verify round. `num_accepted` excludes, `num_emitted` includes the bonus token."""

    depth: int  # levels drafted
    num_drafted: int
    num_verified: int
    num_accepted: int
    num_emitted: int
    draft_seconds: float
    verify_seconds: float
    policy_seconds: float
    other_seconds: float
    draft_forward_seconds: tuple[float, ...] = ()  # of each level, `draft_seconds` in sum
    draft_forwards: int = 0  # forwards of a draft network; 0 where children are looked up

    @property
    def seconds(self) -> float:
        return self.draft_seconds + self.verify_seconds + self.policy_seconds + self.other_seconds


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step of `stream` emits: the prefill's single token, then a round's tokens."""

    token_ids: list[int]
    seconds: float
    round: Round | None = None  # None for the prefill


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole text: `len(token_ids) == 1 + sum(r.num_emitted for r in rounds)`."""

    token_ids: list[int]  # new tokens only
    rounds: list[Round]
    seconds: float  # prefill included
    prefill_seconds: float

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> "Generation":
        """A text from its pieces, the prefill's first."""
        return cls(
            token_ids=[token for piece in pieces for token in piece.token_ids],
            rounds=[piece.round for piece in pieces if piece.round is not None],
            seconds=sum(piece.seconds for piece in pieces),
            prefill_seconds=pieces[0].seconds,
        )
