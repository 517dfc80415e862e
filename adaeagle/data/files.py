"""Files that are whole or absent, and what differs between two configurations."""

import os
from pathlib import Path
from typing import Any


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


def difference(theirs: Any, ours: Any, path: str = "") -> str:
    """The first value in which two configurations differ."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return f"{path} was {theirs!r}, is {ours!r}"
    for key in [*theirs, *(key for key in ours if key not in theirs)]:
        if theirs.get(key) != ours.get(key):
            return difference(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    raise AssertionError("equal configurations differ nowhere")
