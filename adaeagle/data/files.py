"""Files that are whole or absent, folders of one process, what differs between configurations."""

import os
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

IN_WORDS = {
    "target_weights": "the weights of the target have changed",
    "drafter_weights": "the weights of the draft model have changed",
    "prompts_sha256": "the prompts are others",
    "token_ids_sha256": "the prompts are other tokens for the target",
    "tokenizer_sha256": "the tokenizer or its chat template has changed",
    "trace_sha256": "the trace is another one",
}
"""What it means where values that nobody can read differ."""


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a kill, never meets half of it; then it is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Puts a new name on the disk; where folders cannot be opened the system sees to it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(folder: Path) -> BaseFileLock:
    """Keeps other processes out of a folder, until what is returned is dropped.

    Raises:
        ValueError: another process is at work there.
        OSError: the folder cannot be written.
    """
    held = FileLock(str(folder / ".lock"), is_singleton=True)
    try:
        held.acquire(blocking=False)
    except Timeout:
        raise ValueError(f"another process is at work in {folder}") from None
    return held


def difference(theirs: Any, ours: Any, path: str = "") -> str:
    """The first value in which two configurations differ, in words."""
    if (words := IN_WORDS.get(path.rpartition(".")[2])) is not None:
        return words
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return f"{path.removeprefix('config.')} was {theirs!r}, is {ours!r}"
    for key in [*theirs, *(key for key in ours if key not in theirs)]:
        if theirs.get(key) != ours.get(key):
            return difference(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    raise AssertionError("equal configurations differ nowhere")
