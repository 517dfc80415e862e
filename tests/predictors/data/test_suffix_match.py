"""Where a text repeats itself, held against comparing every two places of it."""

import numpy as np
import pytest

from predictors.data.suffix_match import LEAST, MOST, MOST_ECHO, echoes, repeats

A, B, C, D = 1114111 - 1, 0, 0xD800, 7  # tokens of any number, characters of all kinds


def slowly(text: list[int], num_tokens: int) -> tuple[int, list[int]]:
    """The longest match, the latest of several, and what followed."""
    best = (0, 0)
    for lag in range(1, len(text)):
        length = 0
        while length + lag < len(text) and text[-1 - length] == text[-1 - length - lag]:
            length += 1
        best = max(best, (min(length, MOST), -lag))
    length, lag = best[0], -best[1]
    if length < LEAST:
        return 0, [-1] * num_tokens
    for _ in range(num_tokens):
        text = [*text, text[-lag]]
    return length, text[-num_tokens:]


@pytest.mark.parametrize("num_kinds", [1, 2, 3, 6])
def test_random_texts(num_kinds: int) -> None:
    generator = np.random.default_rng(num_kinds)
    for size in (1, 2, 3, 9, 30, 140):
        texts = generator.integers(num_kinds, size=(20, size)).tolist()
        for text, found in zip(texts, repeats(texts, 5), strict=True):
            assert found[:2] == slowly(text, 5)


def test_a_phrase_said_before() -> None:
    found = repeats([[A, B, C, D, 8, 9, A, B, C], [D, B, D]], 4)
    assert [each[:2] for each in found] == [(3, [D, 8, 9, A]), (0, [-1] * 4)]


def longest_said(text: list[int]) -> int:
    """Tokens at a text's end that are in it once more."""
    lengths = range(1, len(text))
    said = [
        n for n in lengths if any(text[at : at + n] == text[-n:] for at in range(len(text) - n))
    ]
    return min(max(said, default=0), MOST_ECHO)


@pytest.mark.parametrize("num_kinds", [1, 2, 3, 9, 60])
def test_echoes_of_drafts(num_kinds: int) -> None:
    generator = np.random.default_rng(num_kinds)
    for size in (1, 2, 3, 9, 60):
        for text in generator.integers(num_kinds, size=(10, size)).tolist():
            draft = generator.integers(num_kinds, size=6).tolist()
            [repeat] = repeats([text], 6)
            expected = [longest_said(text + draft[: place + 1]) for place in range(6)]
            assert echoes(repeat, draft) == expected
            draft = repeat.following  # which goes along, where there is something to go along with
            if repeat.length:
                grown = [min(repeat.length + place + 1, MOST_ECHO) for place in range(6)]
                assert echoes(repeat, draft) == grown
