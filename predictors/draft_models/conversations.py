"""Reads JSON Lines of prompts and conversations, the text that draft models are trained on.

A line holds `turns` (user turns, the form of Spec-Bench), `messages` (a conversation, whose answers
may be left out), `prompt` (one user turn) or, for language models only, `text`.
"""

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

Message = dict[str, str]
"""`role` and `content`, as chat templates read them."""


def read_records(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` objects of a `.jsonl` or `.jsonl.gz` file; None: all."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be >= 1, got {limit}")
    if not path.is_file():
        raise FileNotFoundError(f"data must be a .jsonl or .jsonl.gz file, got {path}")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        records = [
            _parse(line, f"line {number} of {path}")
            for number, line in enumerate(islice(lines, limit), start=1)
        ]
    if not records:
        raise ValueError(f"data must hold at least one record, {path} is empty")
    return records


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} must be a JSON object: {error}") from error
    if not isinstance(record, dict) or not {"turns", "messages", "prompt", "text"} & set(record):
        raise ValueError(
            f"{where} must be an object with turns, messages, prompt or text, got {line[:80]!r}"
        )
    return record


def questions(record: dict[str, Any]) -> list[Message]:
    """What a record asks, without its answers: system messages and user turns in order."""
    if "turns" in record:
        return [{"role": "user", "content": str(turn)} for turn in record["turns"]]
    if "messages" in record:
        return [message for message in record["messages"] if message["role"] != "assistant"]
    if "prompt" in record:
        return [{"role": "user", "content": str(record["prompt"])}]
    return []
