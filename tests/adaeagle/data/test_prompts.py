import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adaeagle.data.prompts import Conversation, Prompt, digest, grouping, read_prompts, spread


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("\n".join(json.dumps(record) for record in records))
    return str(path)


def test_a_file_of_prompts(tmp_path: Path) -> None:
    name = write(
        tmp_path / "p.jsonl",
        {"id": 7, "turns": ["a", "b"], "category": "math", "source": None, "reference": ["x"]},
        {"id": "eight", "token_ids": [1, 2]},
    )
    assert read_prompts(name) == [
        Prompt("7", turns=("a", "b"), category="math"),
        Prompt("eight", token_ids=(1, 2)),
    ]


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(FileNotFoundError, match=r"a bundled set \(mini\), got 'nowhere'"):
        read_prompts("nowhere")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"id": 1, "turns": ["a"]}\n\xff\xfe\x00\n')
    with pytest.raises(ValueError, match=r"line 2 of .* must be a JSON object"):
        read_prompts(str(path))


def test_the_digest_knows_content_and_order_only(tmp_path: Path) -> None:
    prompts = read_prompts(
        write(tmp_path / "a", {"id": 1, "turns": ["x"]}, {"id": 2, "turns": ["y"]})
    )
    spaced = tmp_path / "b"
    spaced.write_text('{"turns":  ["x"], "id": 1}\n\n{"id": 2, "turns": ["y"]}\n')
    assert digest(read_prompts(str(spaced))) == digest(prompts)
    assert digest(prompts[::-1]) != digest(prompts)


def make(groups: str, key: str = "source") -> list[Prompt]:
    return [Prompt(str(n), ("?",), **{key: group}) for n, group in enumerate(groups)]  # type: ignore[arg-type]


def test_grouping_is_by_what_tells_more_apart() -> None:
    assert grouping(make("aabb", "source")) == "source"
    assert grouping(make("aabb", "category")) == "category"
    assert grouping(make("aaaa", "source")) == "category"


def test_spread_takes_from_each_group_in_turn() -> None:
    assert [prompt.id for prompt in spread(make("aaabbc"), 5)] == ["0", "3", "5", "1", "4"]
    with pytest.raises(ValueError, match="limit must be >= 1, got 0"):
        spread(make("aaa"), 0)


class Speller:
    """Stands for a tokenizer: a token a letter."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, token_ids))


def speaking_target(max_length: int = 100) -> Any:
    """Stands for a target: a conversation is its contents joined."""
    return SimpleNamespace(
        name="speller",
        tokenizer=Speller(),
        max_length=max_length,
        vocab_size=128,
        encode_chat=lambda messages: [ord(c) for m in messages for c in m["content"]],
    )


def test_answers_become_history() -> None:
    talk = Conversation(speaking_target(), Prompt("1", turns=("ab", "cd")))
    assert talk.next_ids() == [ord(c) for c in "ab"]
    talk.answer([ord(c) for c in "XY"])
    assert talk.next_ids() == [ord(c) for c in "abXYcd"]
    talk.answer([ord("Z")])
    assert talk.next_ids() is None
    assert talk.num_answered == 2


def test_a_history_that_fills_the_context_ends_the_conversation() -> None:
    talk = Conversation(speaking_target(max_length=6), Prompt("1", turns=("ab", "cd")))
    talk.next_ids()
    talk.answer([ord(c) for c in "XY"])
    assert talk.next_ids() is None
    assert talk.num_answered == 1


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [
        (Prompt("1", turns=("x" * 100,)), "shorter than the context of 100 tokens.*got 100"),
        (Prompt("1", token_ids=(3, 128)), "must be in 0..127, got 128"),
        (Prompt("1", token_ids=(-1,)), "must be in 0..127, got -1"),
    ],
)
def test_a_first_turn_that_cannot_be_asked(prompt: Prompt, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Conversation(speaking_target(), prompt).next_ids()


def test_turns_need_a_tokenizer() -> None:
    target = speaking_target()
    target.tokenizer = None
    with pytest.raises(ValueError, match="must have token_ids"):
        Conversation(target, Prompt("1", turns=("a",)))
