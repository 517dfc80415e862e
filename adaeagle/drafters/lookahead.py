"""Drafting n-grams that the target itself makes up beside each verification.

Source: Lookahead decoding, Fu et al. 2024, https://arxiv.org/abs/2402.02057, and its code,
https://github.com/hao-ai-lab/LookaheadDecoding.
Differs from it: guesses hang in one tree, where the code verifies a chain for each; the window
begins full of the text's own tokens, where the code fills a level a step; what is random depends on
the text alone; a guess that matches whole keeps its last token and the one after it.

Shapes: P texts side by side, X rows of a window, V vocabulary.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from adaeagle.drafters.base import Drafter, Verified
from adaeagle.drafters.lookup import Child, LookupSession, TextIndex
from adaeagle.models.target import Target
from adaeagle.tree import ExtraRows

Phrase = tuple[int, ...]


def next_tokens(phrases: Sequence[Phrase]) -> list[Child]:
    """What phrases begin with, the first ones first; the score of each is minus its rank."""
    tokens = dict.fromkeys(phrase[0] for phrase in phrases if phrase)
    return [(token_id, -float(rank)) for rank, token_id in enumerate(tokens)]


def rest_of(phrases: Sequence[Phrase], token_id: int) -> list[Phrase]:
    """What is left of the phrases that begin with a token."""
    return [phrase[1:] for phrase in phrases if phrase and phrase[0] == token_id]


class PhrasePool(TextIndex[list[Phrase]]):
    """The latest phrases after each token. A state is what is left of the phrases gone on with.

    Args:
        length: tokens of a phrase.
        most: phrases kept of each token.
        from_text: whether phrases of the text itself are kept as well.
    """

    def __init__(self, length: int, most: int, from_text: bool) -> None:
        self.token_ids: list[int] = []
        self.length, self._most, self._from_text = length, most, from_text
        self._phrases: dict[int, list[Phrase]] = {}  # the latest last

    def append(self, token_id: int) -> None:
        self.token_ids.append(token_id)
        if self._from_text and len(self.token_ids) > self.length:
            key, *phrase = self.token_ids[-self.length - 1 :]
            self.add(key, tuple(phrase))

    def add(self, key: int, phrase: Phrase) -> None:
        """Keeps a phrase that may follow a token, as the latest."""
        known = self._phrases.setdefault(key, [])
        if phrase in known:
            known.remove(phrase)
        known.append(phrase)
        del known[: -self._most]

    def latest(self, key: int, count: int) -> list[Phrase]:
        """The latest phrases after a token, the latest first."""
        return self._phrases.get(key, [])[: -count - 1 : -1]

    def root(self) -> list[Phrase]:
        return self.latest(self.token_ids[-1], self._most)

    def children(self, state: list[Phrase]) -> list[Child]:
        return next_tokens(state)

    def after(self, state: list[Phrase], token_id: int) -> list[Phrase]:
        return rest_of(state, token_id)


@dataclass(slots=True)
class Window:
    """A Jacobi window: columns of tokens that stand one place further right each.

    Level 0 is the pending token and guesses at the places behind it; the tokens of a column above
    are what was made of it in the steps before.
    """

    width: int
    num_levels: int
    levels: list[list[int]] = field(default_factory=list)  # the first one without its column 0

    def begin(self, token_ids: Sequence[int]) -> None:
        """Fills it with tokens of a text, the same ones for the same text."""
        draws = random.Random(len(token_ids))
        sizes = [self.width - 1, *[self.width] * (self.num_levels - 1)]
        self.levels = [draws.choices(token_ids, k=size) for size in sizes]

    @property
    def token_ids(self) -> list[int]:
        """Of its X rows, level by level."""
        return [token_id for level in self.levels for token_id in level]

    def phrases(self, pending: int, new: Sequence[int]) -> list[tuple[int, Phrase]]:
        """Each column's key and the phrase behind it, with what the target made of it."""
        keys = [pending, *self.levels[0]]
        return list(zip(keys, zip(*self.levels[1:], new, strict=True), strict=True))

    def step(self, new: Sequence[int]) -> None:
        """Moves on by one place."""
        self.levels = [self.levels[1][1:], *self.levels[2:], list(new)]


class WindowRows:
    """What is the same of every window of one size: where its rows stand and what they see.

    Args:
        width: columns.
        num_levels: levels, at least 2.
    """

    def __init__(self, width: int, num_levels: int) -> None:
        rows = [(0, column) for column in range(1, width)]
        rows += [(level, column) for level in range(1, num_levels) for column in range(width)]
        self.depths = torch.tensor([level + column for level, column in rows])  # [X]
        level, column = torch.tensor(rows).T
        # A column sees itself from below, and of level 0 what stands left of it.
        is_below = (column == column.unsqueeze(1)) & (level <= level.unsqueeze(1)) & (level > 0)
        is_before = (level == 0) & (column <= column.unsqueeze(1))
        self.allowed = is_below | is_before  # [X, X]

    def of(self, windows: Sequence[Window], device: torch.device) -> ExtraRows:
        """The rows of P windows."""
        num_texts = len(windows)
        return ExtraRows(
            torch.tensor([window.token_ids for window in windows], device=device),
            self.depths.to(device).expand(num_texts, -1),
            self.allowed.to(device).expand(num_texts, -1, -1),
        )


class LookaheadSession(LookupSession):
    """Texts with a window and a pool each.

    Args:
        prompts: of the texts.
        drafter: of which sizes.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], drafter: "LookaheadDrafter") -> None:
        self._drafter = drafter
        super().__init__(prompts, drafter.new_pool)
        self._rows = WindowRows(drafter.window, drafter.ngram - 1)
        self._windows = [self._new_window() for _ in prompts]

    def extra_rows(self) -> ExtraRows:
        for window, pool in zip(self._windows, self.indexes, strict=True):
            assert isinstance(pool, PhrasePool)
            if not window.levels:
                window.begin(pool.token_ids)
        return self._rows.of(self._windows, self._drafter.device)

    def verified(self, result: Verified) -> None:
        if result.extra_logits is None:
            return
        # The last level's rows are the last ones.
        new_ids = result.extra_logits[:, -self._drafter.window :].argmax(-1).tolist()
        for window, pool, new in zip(self._windows, self.indexes, new_ids, strict=True):
            assert isinstance(pool, PhrasePool)
            for key, phrase in window.phrases(pool.token_ids[-1], new):
                pool.add(key, phrase)
            window.step(new)

    def replace(self, row: int, prompt_ids: Sequence[int]) -> None:
        super().replace(row, prompt_ids)
        self._windows[row] = self._new_window()

    def keep(self, rows: Sequence[int]) -> None:
        super().keep(rows)
        self._windows = [self._windows[row] for row in rows]

    def _new_window(self) -> Window:
        return Window(self._drafter.window, self._drafter.ngram - 1)


class LookaheadDrafter(Drafter):
    """Drafts n-grams of a pool that the target fills: (ngram - 1) x window rows ride beside each
    verification, and cost what as many verified tokens do.

    The score of a node is how old its phrase is among its siblings, 0 for the latest and negative
    for the rest.

    Args:
        target: on whose device the rows are made.
        window: columns of the window.
        ngram: tokens of an n-gram, the one it follows included; at least 3.
        guesses: n-grams kept after each token, and verified at most.
        from_text: whether n-grams of prompt and text are kept as well.
    """

    kind = "lookahead"
    score = "age"
    is_replayable = False

    def __init__(
        self,
        target: Target | None = None,
        window: int = 7,
        ngram: int = 5,
        guesses: int = 7,
        from_text: bool = False,
    ) -> None:
        for name, value, least in (
            ("window", window, 2),
            ("ngram", ngram, 3),
            ("guesses", guesses, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        self.name = "lookahead"
        self.device = torch.device("cpu") if target is None else target.device
        self.window, self.ngram = window, ngram
        self._guesses, self._from_text = guesses, from_text

    def new_pool(self) -> PhrasePool:
        """An empty pool."""
        return PhrasePool(self.ngram - 1, self._guesses, self._from_text)

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> LookaheadSession:
        return LookaheadSession(prompts, self)
