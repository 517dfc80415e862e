"""Where a text repeats itself, held against comparing every two places of it."""

import numpy as np
import pytest

from predictors.repeats import LEAST, MOST, repeats

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
            assert found == slowly(text, 5)


def test_a_phrase_said_before() -> None:
    found = repeats([[A, B, C, D, 8, 9, A, B, C], [D, B, D]], 4)
    assert found == [(3, [D, 8, 9, A]), (0, [-1] * 4)]
