"""A run's folder: what it was told, a line for each finished prompt, its results.

    config.json     the resolved configuration, and what else must be equal for a run to be resumed
    records.jsonl   a line for each finished prompt
    results.json    when all are finished

A folder that holds anything else's `config.json`, such as a model's, is left alone. Every file is
whole or absent; a kill can only tear the last line of `records.jsonl`, which is then measured
again.
"""

import json
import os
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adaeagle.data.files import difference, lock, write_whole

FORMAT = "adaeagle run"
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
        is_shared: whether several processes may be at work there.

    Raises:
        ValueError: the folder holds another run, or something else, or is in use.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        *,
        replace: bool = False,
        is_shared: bool = False,
    ) -> None:
        self.path = path
        identity = json.loads(json.dumps({"format": FORMAT, **identity}))
        found = self._identity()
        if found is not None and found != identity and not replace:
            raise ValueError(f"{path} holds another run: {difference(found, identity)}")
        path.mkdir(parents=True, exist_ok=True)
        self._lock = None if is_shared else lock(path)  # held while this object is there
        if replace and (found != identity or (path / "results.json").is_file()):
            (path / "results.json").unlink(missing_ok=True)
            self._records.unlink(missing_ok=True)
        if found != identity:
            self.write("config.json", json.dumps(identity, indent=2) + "\n")

    def _identity(self) -> dict[str, Any] | None:
        """Of the run that is there; None: none is.

        Raises:
            ValueError: the folder holds something else.
        """
        found = None
        try:
            found = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            if not (self._records.exists() or (self.path / "results.json").exists()):
                return None
        except ValueError:
            pass
        # Runs of early versions state no format.
        if isinstance(found, dict) and (found.get("format") == FORMAT or "config" in found):
            return {"format": FORMAT, **found}
        raise ValueError(f"{self.path} holds files of something else than a run: they are kept")

    @property
    def _records(self) -> Path:
        return self.path / "records.jsonl"

    def records(self, kind: type[R]) -> list[R]:
        """The finished prompts, in the order they were measured; each counts once."""
        if not self._records.is_file():
            return []
        whole, _, torn = self._records.read_bytes().rpartition(b"\n")
        if torn:
            os.truncate(self._records, len(whole) + 1 if whole else 0)
        raw = map(json.loads, whole.splitlines())
        by_id = {record.get("id", number): record for number, record in enumerate(raw)}
        return [kind.from_json(record) for record in by_id.values()]

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
