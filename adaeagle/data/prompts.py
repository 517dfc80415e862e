"""Prompt sets, and conversations answered turn by turn.

A file holds prompts in any form that `adaeagle.data.conversations` reads.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adaeagle.data.bundled import BUNDLED, bundled_prompts
from adaeagle.data.conversations import Message, Record, read_records


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, of one turn or several."""

    id: str
    turns: tuple[str, ...] = ()  # of the user
    token_ids: tuple[int, ...] = ()
    category: str = ""
    source: str = ""
    system: str = ""  # what the system says before the first turn

    def __post_init__(self) -> None:
        if bool(self.turns) == bool(self.token_ids):
            raise ValueError(f"prompt {self.id!r} must have either turns or token_ids")
        if any(not turn.strip() for turn in self.turns):
            raise ValueError(f"turns of prompt {self.id!r} must not be empty, got {self.turns}")

    @classmethod
    def of(cls, record: Record) -> "Prompt":
        """What a record asks; answers that it holds are left out.

        Raises:
            ValueError: it asks nothing, or its system speaks after the user.
        """
        questions = record.questions
        if not questions and not record.token_ids:
            raise ValueError(f"{record.where} must hold a prompt, got text alone")
        system = [message["content"] for message in questions if message["role"] == "system"]
        if len(system) > 1 or (system and questions[0]["role"] != "system"):
            raise ValueError(f"{record.where}: a system message must be one, and the first one")
        turns = tuple(message["content"] for message in questions if message["role"] == "user")
        return cls(
            record.id, turns, record.token_ids, record.category, record.source, "".join(system)
        )


def read_prompts(name: str) -> list[Prompt]:
    """The prompts of a bundled set, a file or a pipe ("-": stdin).

    Raises:
        FileNotFoundError: there is no such set or file.
        ValueError: a record cannot be used; the message says which.
    """
    prompts: dict[str, Prompt] = {}
    for record in read_records(prompt_file(name)):
        if record.id in prompts:
            raise ValueError(f"{record.where}: id must be unique, got {record.id!r} again")
        prompts[record.id] = Prompt.of(record)
    return list(prompts.values())


def prompt_file(name: str) -> Path:
    """Where the prompts lie.

    Raises:
        FileNotFoundError: there is no such set or file.
    """
    path = bundled_prompts(name) or Path("/dev/stdin" if name == "-" else name)
    if path.is_dir() or not path.exists():
        known = sorted(found.parent.name for found in BUNDLED.glob("*/prompts.jsonl"))
        raise FileNotFoundError(
            "prompts must be a file of JSON Lines or plain text, or a bundled set "
            f"({', '.join(known) or 'none'}), got {name!r}"
        )
    return path


def digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts in their order, whatever the layout of the file they came from."""
    # A prompt without a system message has the digest it had before there were any.
    lines = (
        json.dumps({k: v for k, v in asdict(p).items() if v or k != "system"}, sort_keys=True)
        for p in prompts
    )
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

    def encode_chat(self, messages: list[Message]) -> list[int]: ...


class TooLongError(ValueError):
    """A prompt fills the target's context."""


class Conversation:
    """One prompt being answered: each turn's token ids, with the earlier answers as its history.

    Args:
        target: encodes the turns and decodes the answers.
        prompt: the question.
    """

    def __init__(self, target: ChatModel, prompt: Prompt) -> None:
        if prompt.turns and target.tokenizer is None:
            raise ValueError(
                f"prompt {prompt.id!r} must have token_ids, since {target.name} has no tokenizer, "
                "got turns"
            )
        self._target = target
        self._prompt = prompt
        system = prompt.system
        self._messages: list[Message] = [{"role": "system", "content": system}] if system else []
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

    def _question(self) -> Message:
        return {"role": "user", "content": self._prompt.turns[self.num_answered]}

    def _check(self, token_ids: list[int]) -> None:
        name, context, vocab = self._prompt.id, self._target.max_length, self._target.vocab_size
        if not 0 < len(token_ids) < context:
            raise (TooLongError if token_ids else ValueError)(
                f"prompt {name!r} must be shorter than the context of {context} tokens and not "
                f"empty, got {len(token_ids)} tokens"
            )
        for token in token_ids:
            if not 0 <= token < vocab:
                raise ValueError(
                    f"token_ids of prompt {name!r} must be in 0..{vocab - 1}, got {token}"
                )
