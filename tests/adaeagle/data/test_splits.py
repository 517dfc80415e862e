import random
from collections import Counter

import pytest

from adaeagle.data.prompts import Prompt, read_prompts
from adaeagle.data.splits import split_of


def prompts(*sizes: int) -> list[Prompt]:
    """So many prompts of each category."""
    return [
        Prompt(f"{kind}-{number}", token_ids=(1,), category=str(kind))
        for kind, size in enumerate(sizes)
        for number in range(size)
    ]


@pytest.mark.parametrize("size", [2, 10, 101])
def test_half_of_every_kind(size: int) -> None:
    asked = prompts(size, 4, size + 1)
    found = split_of(asked)
    for kind in "012":
        counts = Counter(found[prompt.id] for prompt in asked if prompt.category == kind)
        assert abs(counts["tune"] - counts["test"]) == counts.total() % 2


def test_kinds_are_what_tells_more_apart() -> None:
    asked = [
        Prompt(f"{source}/{number}", token_ids=(1,), category="one", source=source)
        for source in ("near", "far")
        for number in range(6)
    ]
    found = split_of(asked)
    assert Counter(found[f"near/{number}"] for number in range(6)) == {"tune": 3, "test": 3}


def test_neither_order_nor_other_kinds_matter() -> None:
    asked = prompts(7, 20, 1)
    expected = split_of(asked)
    shuffled = random.Random(0).sample(asked, len(asked))
    assert split_of(shuffled) == expected
    assert list(split_of(shuffled)) == [prompt.id for prompt in shuffled]
    assert split_of(prompts(7, 20)) == {id_: expected[id_] for id_ in expected if id_[0] != "2"}


def test_lone_prompts_go_by_their_hash() -> None:
    found = Counter(split_of(prompts(*[1] * 400)).values())
    assert found.total() == 400
    assert 150 < found["tune"] < 250
    middle = Counter(split_of(prompts(*[3] * 400)).values())
    assert 400 + 150 < middle["tune"] < 400 + 250


def test_it_is_the_same_everywhere() -> None:
    """Results are compared across machines; Python's own hash is salted anew in each process."""
    letters = {"tune": "u", "test": "e"}
    assert "".join(letters[split] for split in split_of(prompts(8)).values()) == "uuueeeue"


def test_the_bundled_prompts() -> None:
    asked = read_prompts("mini")
    found = split_of(asked)
    assert Counter(found.values()) == {"tune": 44, "test": 44}
    for source in {prompt.source for prompt in asked}:
        counts = Counter(found[prompt.id] for prompt in asked if prompt.source == source)
        assert counts == {"tune": 4, "test": 4}
