"""Prompt sets: JSON Lines of questions, and conversations answered turn by turn.

A line is an object with `id` and either `turns`, the user's turns in order, or `token_ids`, one
turn as the target reads it. `category` and `source` are optional, other keys are ignored.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adaeagle.data.bundled import BUNDLED, bundled_prompts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, of one turn or several."""

    id: str
    turns: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    category: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if bool(self.turns) == bool(self.token_ids):
            raise ValueError(f"prompt {self.id!r} must have either turns or token_ids")
        if any(not turn.strip() for turn in self.turns):
            raise ValueError(f"turns of prompt {self.id!r} must not be empty, got {self.turns}")


def read_prompts(name: str) -> list[Prompt]:
    """The prompts of a bundled set or of a JSON Lines file.

    Raises:
        FileNotFoundError: there is no such set or file.
        ValueError: a line is malformed; the message says which.
    """
    path = bundled_prompts(name) or Path(name)
    if not path.is_file():
        known = sorted(found.parent.name for found in BUNDLED.glob("*/prompts.jsonl"))
        raise FileNotFoundError(
            f"prompts must be a JSON Lines file or a bundled set ({', '.join(known) or 'none'}), "
            f"got {name!r}"
        )
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        prompt = _parse(line, f"line {number} of {path}")
        if prompt.id in prompts:
            raise ValueError(f"line {number} of {path}: id must be unique, got {prompt.id!r} again")
        prompts[prompt.id] = prompt
    if not prompts:
        raise ValueError(f"prompts must hold at least one line, {path} holds none")
    return list(prompts.values())


def _parse(line: bytes, where: str) -> Prompt:
    try:
        record = json.loads(line)
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{where} must be a JSON object, got {line[:40]!r}: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where} must be a JSON object, got {line[:40]!r}")
    if not isinstance(record.get("id"), str | int) or record["id"] == "":
        raise ValueError(f"{where}: id must be a string or a number, got {record.get('id')!r}")
    try:
        return Prompt(
            id=str(record["id"]),
            turns=_list_of(str, record, "turns"),
            token_ids=_list_of(int, record, "token_ids"),
            category=str(record.get("category") or ""),
            source=str(record.get("source") or ""),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _list_of(kind: type[T], record: dict[str, Any], key: str) -> tuple[T, ...]:
    found = record.get(key, [])
    if not isinstance(found, list) or any(type(element) is not kind for element in found):
        raise ValueError(f"{key} must be a list of {kind.__name__}, got {found!r:.60}")
    return tuple(found)


def digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts in their order, whatever the layout of the file they came from."""
    lines = (json.dumps(asdict(prompt), sort_keys=True) for prompt in prompts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Grouped(Protocol):
    """Something of a prompt, or the prompt."""

    @property
    def category(self) -> str: ...

    @property
    def source(self) -> str: ...


G = TypeVar("G", bound=Grouped)


def grouping(prompts: Sequence[Grouped]) -> str:
    """`source` or `category`: whichever tells more kinds of prompts apart."""
    num_sources = len({prompt.source for prompt in prompts})
    return "source" if num_sources > len({prompt.category for prompt in prompts}) else "category"


def spread(prompts: Sequence[G], limit: int) -> list[G]:
    """The first `limit` prompts when every group gives one in turn."""
    if limit < 1:
        raise ValueError(f"limit must be >= 1, got {limit}")
    key = grouping(prompts)
    groups: dict[str, list[G]] = {}
    for prompt in prompts:
        groups.setdefault(getattr(prompt, key), []).append(prompt)
    in_turn = (prompt for row in zip_longest(*groups.values()) for prompt in row)
    return [prompt for prompt in in_turn if prompt is not None][:limit]


class ChatModel(Protocol):
    """What a conversation needs of a target."""

    name: str
    max_length: int
    tokenizer: Any

    @property
    def vocab_size(self) -> int: ...

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]: ...


class Conversation:
    """One prompt being answered: each turn's token ids, with the earlier answers as its history.

    Args:
        target: encodes the turns and decodes the answers.
        prompt: what is asked.
    """

    def __init__(self, target: ChatModel, prompt: Prompt) -> None:
        if prompt.turns and target.tokenizer is None:
            raise ValueError(
                f"prompt {prompt.id!r} must have token_ids, since {target.name} has no tokenizer, "
                "got turns"
            )
        self._target = target
        self._prompt = prompt
        self._messages: list[dict[str, str]] = []
        self.num_answered = 0

    def next_ids(self) -> list[int] | None:
        """What is to be continued; None when all is answered or the history fills the context.

        Raises:
            ValueError: the first turn fills the context, is empty, or names a token there is not.
        """
        if self.num_answered == max(1, len(self._prompt.turns)):
            return None
        if self._prompt.turns:
            token_ids = self._target.encode_chat([*self._messages, self._question()])
        else:
            token_ids = list(self._prompt.token_ids)
        if self.num_answered == 0:
            self._check(token_ids)
        return token_ids if len(token_ids) < self._target.max_length else None

    def answer(self, token_ids: Sequence[int]) -> None:
        """Takes the answer to the turn that `next_ids` gave."""
        if self._prompt.turns:
            tokenizer = self._target.tokenizer
            assert tokenizer is not None
            text = str(tokenizer.decode(list(token_ids), skip_special_tokens=True))
            self._messages += [self._question(), {"role": "assistant", "content": text}]
        self.num_answered += 1

    def _question(self) -> dict[str, str]:
        return {"role": "user", "content": self._prompt.turns[self.num_answered]}

    def _check(self, token_ids: list[int]) -> None:
        name, context, vocab = self._prompt.id, self._target.max_length, self._target.vocab_size
        if not 0 < len(token_ids) < context:
            raise ValueError(
                f"prompt {name!r} must be shorter than the context of {context} tokens and not "
                f"empty, got {len(token_ids)} tokens"
            )
        for token in token_ids:
            if not 0 <= token < vocab:
                raise ValueError(
                    f"token_ids of prompt {name!r} must be in 0..{vocab - 1}, got {token}"
                )
