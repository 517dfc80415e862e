"""A run's folder: what it was told, a line for each finished prompt, its results.

    config.json     the resolved configuration, and what else must be equal for a run to be resumed
    records.jsonl   a line for each finished prompt
    results.json    when all are finished

Every file is whole or absent; a kill can only tear the last line of `records.jsonl`, which is then
measured again.
"""

import json
import os
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adaeagle.data.files import difference, write_whole

R = TypeVar("R", bound="Record")


class Record(Protocol):
    """What one finished prompt leaves behind, as a line of JSON."""

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls: type[R], raw: dict[str, Any]) -> R: ...


class RunFolder:
    """The folder of one run, made if it is not there.

    Args:
        path: the folder.
        identity: what makes this run this run; written to `config.json`.
        replace: begin anew where the folder holds another run, or this one finished.

    Raises:
        ValueError: the folder holds another run.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, identity: dict[str, Any], *, replace: bool = False) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        config = path / "config.json"
        identity = json.loads(json.dumps(identity))
        if config.is_file():
            found = json.loads(config.read_text(encoding="utf-8"))
            if replace and (found != identity or (path / "results.json").is_file()):
                (path / "results.json").unlink(missing_ok=True)
                self._records.unlink(missing_ok=True)
            elif found != identity:
                raise ValueError(f"{path} holds another run: {difference(found, identity)}")
        self.write("config.json", json.dumps(identity, indent=2) + "\n")

    @property
    def _records(self) -> Path:
        return self.path / "records.jsonl"

    def records(self, kind: type[R]) -> list[R]:
        """The finished prompts, in the order they were measured."""
        if not self._records.is_file():
            return []
        whole, _, torn = self._records.read_bytes().rpartition(b"\n")
        if torn:
            os.truncate(self._records, len(whole) + 1 if whole else 0)
        return [kind.from_json(json.loads(line)) for line in whole.splitlines()]

    def append(self, record: Record) -> None:
        """Adds one finished prompt; it is on the disk when this returns."""
        with self._records.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record.to_json()) + "\n")
            lines.flush()
            os.fsync(lines.fileno())

    def write(self, name: str, content: str | bytes) -> Path:
        """Writes one whole file."""
        path = self.path / name
        write_whole(path, content.encode() if isinstance(content, str) else content)
        return path
