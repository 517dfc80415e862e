"""Reads conversations in the forms the field keeps them in: prompts to answer, text to train on.

A file is JSON Lines, one JSON array, or plain text (`.txt`: a prompt a line); compressed with gzip
or not; a pipe is read too. A record holds what is said under one of these keys:

    turns          the user's turns, in order (MT-bench, Spec-Bench, EAGLE)
    messages       objects of `role` and `content`, answers among them or not
    conversations  objects of `from` and `value` (ShareGPT)
    prompt         one turn of the user, or messages
    token_ids      one turn as the target reads it
    text           plain text, which training alone can use

`id` or `question_id`, `category` and `source` are optional; other keys are ignored. A key whose
value is null or an empty list counts as absent, as exports of tables write it.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Message = dict[str, str]
"""`role` and `content`, as chat templates read them."""

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""The names that data sets give to roles, and those that chat templates know."""


@dataclass(frozen=True, slots=True)
class Record:
    """One conversation or text."""

    where: str  # its place in the file
    id: str
    messages: tuple[Message, ...] = ()
    token_ids: tuple[int, ...] = ()
    text: str = ""
    category: str = ""
    source: str = ""

    @property
    def questions(self) -> list[Message]:
        """System messages and the user's turns, without the answers."""
        return [message for message in self.messages if message["role"] != "assistant"]


def read_records(path: Path, limit: int | None = None) -> list[Record]:
    """The first `limit` records of a file or pipe; None: all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a record cannot be used; the message says which, and why.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be >= 1, got {limit}")
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"it must be a file of JSON Lines or plain text, got {str(path)!r}")
    records: list[Record] = []
    for where, raw in _objects(path):
        records.append(_record(raw, where, str(len(records) + 1)))
        if len(records) == limit:
            break
    if not records:
        raise ValueError(f"{path} must hold at least one record, it holds none")
    return records


def _objects(path: Path) -> Iterator[tuple[str, Any]]:
    """Every object of a file, and where it stands."""
    content = path.read_bytes() if path.is_file() else _piped(path)
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    if ".txt" in path.suffixes:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"line {number} of {path}", {"prompt": _decoded(line, number, path)}
    elif content.lstrip().startswith(b"["):
        for number, raw in enumerate(_json(content, str(path)), start=1):
            yield f"record {number} of {path}", raw
    else:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"line {number} of {path}"
                yield where, _json(line, where)


@lru_cache(maxsize=1)
def _piped(path: Path) -> bytes:
    """What a pipe holds, which can be read once, for all who read it."""
    return path.read_bytes()


def _decoded(line: bytes, number: int, path: Path) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"line {number} of {path} must be UTF-8: {error}") from None


def _json(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(
            f"{where} must be a JSON object (plain text is read from .txt files), "
            f"got {content[:40]!r}: {error}"
        ) from None


def _record(raw: Any, where: str, number: str) -> Record:
    """A record, its values checked.

    Args:
        raw: what JSON gave.
        where: it stands.
        number: its id where it has none.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{where} must be a JSON object, got {str(raw)[:40]!r}")
    given = {key: value for key, value in raw.items() if value not in (None, [])}
    keys = [key for key in READERS if key in given]
    if not keys:
        raise ValueError(f"{where} must hold one of {', '.join(READERS)}, got the keys {list(raw)}")
    try:
        fields = READERS[keys[0]](given[keys[0]], keys[0])
        ids = (_id(given[key], key) for key in ("id", "question_id") if key in given)
        return Record(
            where,
            next(ids, number),
            category=str(given.get("category", "")),
            source=str(given.get("source", "")),
            **fields,
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _id(value: Any, key: str) -> str:
    if type(value) not in (str, int) or value == "":
        raise ValueError(f"{key} must be a string or a number, got {value!r}")
    return str(value)


def _turns(value: Any, key: str) -> dict[str, Any]:
    turns = _list_of(str, value, key)
    return {"messages": tuple(_message("user", turn, key) for turn in turns)}


def _prompt(value: Any, key: str) -> dict[str, Any]:
    if isinstance(value, list):
        return _messages(value, key)
    return {"messages": (_message("user", _string(value, key), key),)}


def _messages(value: Any, key: str) -> dict[str, Any]:
    found = []
    for message in _list_of(dict, value, key):
        role = message.get("role", message.get("from"))
        if role not in ROLES:
            raise ValueError(f"each role in {key} must be one of {', '.join(ROLES)}, got {role!r}")
        found.append(_message(ROLES[role], message.get("content", message.get("value")), key))
    if all(message["role"] != "user" for message in found):
        raise ValueError(f"{key} must hold a message of the user, got {value!r:.60}")
    return {"messages": tuple(found)}


def _message(role: str, content: Any, key: str) -> Message:
    if isinstance(content, list):  # in parts, as multimodal chats are
        parts = _list_of(dict, content, f"a content in {key}")
        content = "".join(_string(part.get("text"), f"each part in {key}") for part in parts)
    if not _string(content, f"each content in {key}").strip() and role == "user":
        raise ValueError(f"{key} must not be empty, got {content!r}")
    return {"role": role, "content": content}


def _token_ids(value: Any, key: str) -> dict[str, Any]:
    return {"token_ids": tuple(_list_of(int, value, key))}


def _text(value: Any, key: str) -> dict[str, Any]:
    return {"text": _string(value, key)}


READERS: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "turns": _turns,
    "messages": _messages,
    "conversations": _messages,
    "prompt": _prompt,
    "token_ids": _token_ids,
    "text": _text,
}
"""The keys that hold what is said; the first one that is there counts."""


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a character, which JSON can spell
        raise ValueError(f"{name} must be Unicode text, got {value!r:.60}: {error}") from None
    return value


def _list_of(kind: type[T], value: Any, name: str) -> Sequence[T]:
    if not isinstance(value, list) or not value or any(type(each) is not kind for each in value):
        what = {"str": "strings", "int": "whole numbers", "dict": "objects"}[kind.__name__]
        raise ValueError(f"{name} must be a list of {what}, got {value!r:.60}")
    return value
