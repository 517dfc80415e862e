import random
from collections.abc import Iterator

import pytest

from adaeagle.drafters.suffix_automaton import START, SuffixAutomaton


def texts(num_symbols: int = 3) -> Iterator[list[int]]:
    """Texts of few symbols, in which everything repeats."""
    for seed in range(40):
        draw = random.Random(seed)
        yield [draw.randrange(num_symbols) for _ in range(draw.randrange(1, 40))]
    yield [0] * 30
    yield [0, 1, 2] * 12


def ends(text: list[int], part: list[int]) -> list[int]:
    """Where `part` ends in `text`, in tokens up to there."""
    size = len(part)
    return [end for end in range(size, len(text) + 1) if text[end - size : end] == part]


def state_of(automaton: SuffixAutomaton, part: list[int]) -> int | None:
    state: int | None = START
    for token in part:
        state = automaton.following(state).get(token) if state is not None else None
    return state


@pytest.mark.parametrize("most", [None, 1, 2, 5])
def test_the_longest_suffix_that_occurs_earlier(most: int | None) -> None:
    for text in texts():
        automaton = SuffixAutomaton()
        for size, token in enumerate(text, start=1):
            automaton.append(token)
            known = text[:size]
            bound = size if most is None else min(most, size)
            longest = max(n for n in range(bound + 1) if n == 0 or len(ends(known, known[-n:])) > 1)
            state, length = automaton.match(most)
            assert length == longest
            assert state == state_of(automaton, known[size - longest :])


def test_every_substring_is_counted_and_found() -> None:
    for text in texts():
        automaton = SuffixAutomaton()
        for size, token in enumerate(text, start=1):
            automaton.append(token)
            if size % 7 and size < len(text):
                continue
            known = text[:size]
            for begin in range(size):
                for end in range(begin + 1, min(begin + 6, size) + 1):
                    part = known[begin:end]
                    state = state_of(automaton, part)
                    assert state is not None
                    found = ends(known, part)
                    assert automaton.count(state) == len(found)
                    assert automaton.first_end(state) == found[0]
                    assert automaton.latest_end(state) == found[-1]
                    behind = {known[e] for e in found if e < size}
                    assert set(automaton.following(state)) == behind


def test_a_shorter_suffix_occurs_more_often() -> None:
    for text in texts():
        automaton = SuffixAutomaton()
        for token in text:
            automaton.append(token)
        state, length = automaton.match()
        while state != START:
            count = automaton.count(state)
            state, shorter = automaton.shorter(state)
            assert shorter < length
            assert state == state_of(automaton, text[len(text) - shorter :])
            assert state == START or automaton.count(state) > count
            length = shorter


def test_what_does_not_occur_is_not_known() -> None:
    automaton = SuffixAutomaton()
    for token in [1, 2, 1]:
        automaton.append(token)
    assert state_of(automaton, [1, 1]) is None
    assert state_of(automaton, [3]) is None


def test_an_empty_text() -> None:
    assert SuffixAutomaton().match() == (START, 0)
