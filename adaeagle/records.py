"""What a generated text leaves behind: its tokens, its rounds, its seconds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adaeagle.display import Displayed


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
    text: str | None = None  # what it adds to the text; None: the target has no tokenizer


@dataclass(frozen=True, slots=True, repr=False)
class Generation(Displayed):
    """A whole text: `len(token_ids) == 1 + sum(r.num_emitted for r in rounds)`."""

    token_ids: list[int]  # new tokens only
    rounds: list[Round]
    seconds: float  # prefill included
    prefill_seconds: float
    text: str | None = None  # without special tokens; None: the target has no tokenizer

    @property
    def tokens_per_second(self) -> float:
        """Prefill included."""
        return len(self.token_ids) / self.seconds

    @property
    def tokens_per_round(self) -> float:
        """Emitted tokens of a round in the mean, the bonus token included; NaN without a round."""
        return _ratio(sum(each.num_emitted for each in self.rounds), len(self.rounds))

    @property
    def acceptance_rate(self) -> float:
        """The share of the verified tokens that was accepted; NaN where nothing was drafted."""
        accepted = sum(each.num_accepted for each in self.rounds)
        return _ratio(accepted, sum(each.num_verified for each in self.rounds))

    def summary(self) -> dict[str, object]:
        return {
            "text": repr(_shortened(self.text)),
            "tokens": len(self.token_ids),
            "seconds": f"{self.seconds:.2f}",
            "tokens_per_second": f"{self.tokens_per_second:.1f}",
            "rounds": len(self.rounds),
            "tokens_per_round": f"{self.tokens_per_round:.2f}",
            "acceptance_rate": f"{self.acceptance_rate:.2f}",
        }

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> "Generation":
        """A text from its pieces, the prefill's first."""
        texts = [piece.text for piece in pieces if piece.text is not None]
        return cls(
            token_ids=[token for piece in pieces for token in piece.token_ids],
            rounds=[piece.round for piece in pieces if piece.round is not None],
            seconds=sum(piece.seconds for piece in pieces),
            prefill_seconds=pieces[0].seconds,
            text="".join(texts) if texts else None,
        )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _shortened(text: str | None) -> str | None:
    return text if text is None or len(text) <= 60 else f"{text[:30]}…{text[-29:]}"
