"""Many positions of many texts side by side, as the hooks of a policy see them.

Shapes: T texts, Q positions of all texts together, P of them chosen, D feature size.
"""

from collections.abc import Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from adaeagle.policy import Context
from adaeagle.trace.text import RecordedText


class Positions:
    """The positions of texts, numbered through in their order.

    Args:
        texts: those whose positions they are.
    """

    def __init__(self, texts: Sequence[RecordedText]) -> None:
        self._texts = texts
        counts = torch.tensor([text.num_positions for text in texts], dtype=torch.int64)
        self.starts = _before(counts)
        """[T + 1] the first position of each text; the last entry is Q."""
        self.text_of = torch.repeat_interleave(torch.arange(len(texts)), counts)
        """[Q] which text each belongs to."""
        self.within = torch.arange(len(self.text_of)) - self.starts[self.text_of]
        """[Q] the position within its text."""
        prompts = torch.tensor([len(text.prompt_ids) for text in texts], dtype=torch.int64)
        limits = torch.tensor([text.limit for text in texts], dtype=torch.int64)
        self.num_tokens = prompts[self.text_of] + self.within + 1
        """[Q] tokens of prompt and text so far, the pending one included."""
        self.remaining = limits[self.text_of] - self.within - 1
        """[Q] tokens that may still be emitted."""
        self.num_left = counts[self.text_of] - self.within
        """[Q] tokens that the text still has, at least 1."""
        # Tokens and features of all texts end to end, and where each position's pending token lies.
        news = torch.tensor([len(text.token_ids) for text in texts], dtype=torch.int64)
        pieces = [piece for text in texts for piece in (text.prompt_ids, text.token_ids)]
        self._token_ids = torch.cat([torch.empty(0, dtype=torch.int64), *pieces])
        self._pending = _before(prompts + news)[self.text_of] + self.num_tokens - 1
        self._new = _before(news)[self.text_of] + self.within
        seen = torch.tensor([len(text.features) for text in texts], dtype=torch.int64)
        self._seen = _before(seen)[self.text_of] + self.num_tokens - 2

    def __len__(self) -> int:
        return len(self.text_of)

    @cached_property
    def _features(self) -> Tensor:
        return torch.cat([text.features for text in self._texts])

    def context(self, rows: Tensor, round_number: int) -> Context:
        """What `plan` is told at positions `rows` [P]."""
        pending = self._pending[rows]
        return Context(
            round=round_number,
            num_tokens=self.num_tokens[rows],
            remaining=self.remaining[rows],
            token_ids=self._token_ids[pending],
            last_token_ids=self._token_ids[pending - 1],
            features=self._features.index_select(0, self._seen[rows]),
            recent=partial(self.recent, rows),
            target_log_probs=partial(self.target_log_probs, rows),
        )

    def target_log_probs(self, rows: Tensor, count: int) -> Tensor:
        """The target's best log-probs where the pending token was chosen: [P, <= count]."""
        return self._top_log_probs[self.new_places(rows), :count]

    def new_places(self, rows: Tensor) -> Tensor:
        """Where the pending token lies among the new tokens of all texts end to end: [P]."""
        return self._new[rows]

    @cached_property
    def _top_log_probs(self) -> Tensor:
        return torch.cat([text.top_log_probs for text in self._texts])

    def recent(self, rows: Tensor, count: int) -> list[list[int]]:
        """The last tokens of prompt and text up to the pending one, at most so many: [P]."""
        ends = (self._pending[rows] + 1).tolist()
        counts = self.num_tokens[rows].clamp(max=count).tolist()
        return [self._all_ids[e - n : e] for e, n in zip(ends, counts, strict=True)]

    @cached_property
    def _all_ids(self) -> list[int]:
        found: list[int] = self._token_ids.tolist()
        return found

    def following(self, rows: Tensor, count: int) -> Tensor:
        """The text's next tokens: [P, count] int64, -1 beyond its end."""
        places = torch.arange(1, count + 1)
        found = (self._pending[rows].unsqueeze(1) + places).clamp(max=len(self._token_ids) - 1)
        return self._token_ids[found].masked_fill(self.num_left[rows].unsqueeze(1) < places, -1)

    def expected(self, rows: Tensor, depth: int) -> Tensor:
        """The text's token `depth` places on: [P] int64, -1 beyond its end."""
        places = (self._pending[rows] + depth).clamp(max=len(self._token_ids) - 1)
        return self._token_ids[places].masked_fill(self.num_left[rows] < depth, -1)


def _before(sizes: Tensor) -> Tensor:
    """Where each of `sizes` [T] begins when they lie end to end, and where the last ends."""
    return torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
