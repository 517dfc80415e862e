"""One text being decoded: its tokens, its limit and where it stands. It knows no models."""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

import torch

from adaeagle.decoding.texts import StopStrings


@dataclass(slots=True, kw_only=True)
class Sequence:
    """One text.

    Args:
        prompt_ids: at least one token.
        limit: most tokens to emit, at least 1.
        stop_token_ids: end the text, and are its last token.
        seed: of everything random in it.
        stop: strings that end the text; None: there are none.
    """

    prompt_ids: list[int]
    limit: int
    stop_token_ids: frozenset[int] = frozenset()
    seed: int = 0
    stop: StopStrings | None = None
    token_ids: list[int] = field(default_factory=list)  # emitted; the last one is pending
    num_rounds: int = 0
    is_done: bool = False
    uniforms: torch.Generator = field(init=False)  # decides what is accepted in it

    def __post_init__(self) -> None:
        self.uniforms = torch.Generator().manual_seed(self.seed)

    def __len__(self) -> int:
        """Tokens of prompt and text, the pending one included."""
        return len(self.prompt_ids) + len(self.token_ids)

    @property
    def remaining(self) -> int:
        """Tokens that may still be emitted."""
        return 0 if self.is_done else self.limit - len(self.token_ids)

    def tail(self, count: int) -> list[int]:
        """The last tokens of prompt and text, at most so many."""
        missing = max(0, count - len(self.token_ids))
        return (self.prompt_ids[-missing:] if missing else []) + self.token_ids[-count:]

    def emit(self, token_ids: Tokens[int]) -> list[int]:
        """Takes tokens up to the limit and to the first stop; returns those it took."""
        taken = list(token_ids[: self.remaining])
        ends = [place for place, token in enumerate(taken) if token in self.stop_token_ids]
        if ends:
            taken = taken[: ends[0] + 1]
        end = None if self.stop is None else self.stop.end(self.token_ids, taken)
        if end is not None:
            taken = taken[:end]
        self.token_ids += taken
        self.is_done = bool(ends) or end is not None or self.remaining == 0
        return taken
