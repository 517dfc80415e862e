"""What of a text's end has been said before, and how it went on then.

Sources: prompt lookup (https://github.com/apoorvumang/prompt-lookup-decoding) drafts such
continuations, and SAM-Decoding (https://arxiv.org/abs/2411.10666) goes by how long the match is.
Differs from them: nothing is drafted from here. A draft model's own tokens that say the same are
more likely to be accepted, the more so the longer the match: what a predictor may know.

A text is searched as a string, a character a token, which is what takes the least time.
Shapes: P texts, K tokens of a continuation.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

WINDOW = 256
"""Tokens looked back."""
MOST = 64
"""Longer matches are as good as this."""
LEAST = 2
"""Shorter matches are none."""
MOST_ECHO = 6
"""Longer echoes of drafted tokens are as good as this."""


class Repeat(NamedTuple):
    """The longest suffix of a text that occurs in it before."""

    length: int  # 0: there is none
    following: list[int]  # [K] what followed there; -1 where there is none
    text: str  # the text


def repeats(texts: Iterable[Sequence[int]], num_tokens: int) -> list[Repeat]:
    """The longest suffix of each text that occurs in it before, and what followed there.

    Of several occurrences the latest counts; it may overlap the suffix, as in a text that loops,
    and the continuation then goes round.

    Args:
        texts: [P] the last tokens of each.
        num_tokens: K.
    """
    found = []
    for token_ids in texts:
        text = "".join(map(chr, token_ids))
        length, lag = _longest(text)
        if length < LEAST:
            found.append(Repeat(0, [-1] * num_tokens, text))
        else:
            around = text[-lag:] * (1 + num_tokens // lag)
            found.append(Repeat(length, [*map(ord, around[:num_tokens])], text))
    return found


def echo(text: str, most: int) -> int:
    """How many tokens at a text's end, at most so many, it has said before in this order."""
    end = len(text) - 1
    length = 0
    while length < most and text.rfind(text[~length:], 0, end) >= 0:
        length += 1
    return length


def echoes(repeat: Repeat, token_ids: Iterable[int]) -> list[int]:
    """The `echo` of a text with each token of its draft, at most `MOST_ECHO` each: [K].

    An echo is at most one token longer than that of the token before.
    """
    text, length = repeat.text, max(repeat.length, LEAST - 1)
    found = []
    for token_id in token_ids:
        text += chr(token_id)
        length = echo(text, min(length + 1, MOST_ECHO))
        found.append(length)
    return found


def _longest(text: str) -> tuple[int, int]:
    """Length of the longest suffix that occurs earlier, at most `MOST`, and how far back it does.

    Where a suffix occurs, all shorter ones do: so the length is bisected.
    """
    size = len(text)
    low, high, found = 0, min(MOST, size - 1) + 1, 0
    step = LEAST
    while low + 1 < high:
        length = min(low + step, high - 1)
        place = text.rfind(text[size - length :], 0, size - 1)
        if place < 0:
            high, step = length, max(1, (length - low) // 2)
        else:
            low, found, step = length, size - length - place, 2 * step
    return low, found
