"""The folder of a trace: its manifest and its shards, being written or read.

manifest.json   what the trace is; written first
texts/ tokens/ nodes/ features/ shards/   see `adaeagle.trace.storage`
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import get_args

from adaeagle.data.files import difference, write_whole
from adaeagle.data.splits import Split
from adaeagle.display import Displayed
from adaeagle.trace.manifest import Manifest
from adaeagle.trace.storage import (
    FOLDERS,
    ShardRecord,
    read_record,
    read_shard,
    record_path,
    write_shard,
)
from adaeagle.trace.text import RecordedText


class TraceFolder(Displayed):
    """A trace on disk, whole or in the making; made by `create` or `open`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._digest = manifest.digest

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> "TraceFolder":
        """A folder to record into, new or one that this same recording has begun.

        Raises:
            ValueError: it holds another trace; the message says what differs.
            OSError: it cannot be written.
        """
        if (path / "manifest.json").is_file():
            found, given = cls.open(path).manifest.identity, manifest.identity
            if found != given:
                raise ValueError(f"{path} holds another trace: {difference(found, given)}")
        for name in FOLDERS:
            (path / name).mkdir(parents=True, exist_ok=True)
        if not (path / "manifest.json").is_file():
            content = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False) + "\n"
            write_whole(path / "manifest.json", content.encode())
        return cls(path, manifest)

    @classmethod
    def open(cls, path: str | Path) -> "TraceFolder":
        """A folder to read.

        Raises:
            FileNotFoundError: there is no trace.
            ValueError: it is of another format, or its manifest is damaged.
        """
        manifest = Path(path) / "manifest.json"
        if not manifest.is_file():
            raise FileNotFoundError(
                f"{path} must be the folder of a trace, it has no manifest.json"
            )
        try:
            return cls(Path(path), Manifest.from_json(json.loads(manifest.read_bytes())))
        except ValueError as error:
            raise ValueError(f"{manifest}: {error}") from None

    def summary(self) -> dict[str, object]:
        manifest = self.manifest
        return {
            "path": repr(str(self.path)),
            "target": repr(manifest.target),
            "drafter": repr(manifest.drafter),
            "prompts": f"{self.num_recorded} of {len(manifest.prompt_ids)}",
        }

    def discard_leftovers(self) -> None:
        """Deletes what killed processes were writing; none may be writing now."""
        for name in (".", *FOLDERS):
            for leftover in (self.path / name).glob(".*.*.[0-9]*"):  # as `write_whole` names them
                leftover.unlink(missing_ok=True)

    @property
    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        numbers = range(len(self.manifest.shards))
        return [number for number in numbers if not record_path(self.path, number).is_file()]

    @property
    def complete(self) -> bool:
        """Whether all prompts are recorded."""
        return not self.missing

    @property
    def num_recorded(self) -> int:
        """Prompts that are there, whichever process stored them."""
        shards, absent = self.manifest.shards, set(self.missing)
        return sum(len(shard.prompt_ids) for n, shard in enumerate(shards) if n not in absent)

    @property
    def records(self) -> list[ShardRecord]:
        """What the shards that are there say they hold."""
        absent = set(self.missing)
        return [self._record(n) for n in range(len(self.manifest.shards)) if n not in absent]

    def add(self, number: int, texts: Sequence[RecordedText]) -> None:
        """Stores a shard: the texts of its prompts, in order. It is on the disk on return.

        Raises:
            OSError: it cannot be written; the other shards are as they were.
        """
        shard = self.manifest.shards[number]
        found = list(dict.fromkeys(text.prompt_id for text in texts))
        if found != shard.prompt_ids:
            raise ValueError(f"shard {number} must hold {shard.prompt_ids}, got {found}")
        write_shard(self.path, number, shard, texts, self._digest)

    def texts(
        self,
        *,
        prompt_ids: Collection[str] | None = None,
        split: Split | None = None,
        verify: bool = True,
    ) -> list[RecordedText]:
        """Recorded texts in the order of their prompts; those of `complete`, or what there is.

        Shards without a text that is wanted are not opened.

        Args:
            prompt_ids: of which prompts; None: all.
            split: of which split; None: both.
            verify: whether to hold files against their checksums; sizes always are.

        Raises:
            FileNotFoundError: a file of a finished shard is missing.
            ValueError: a file is damaged or of another trace; or there is no such prompt or split.
        """
        order = {name: place for place, name in enumerate(self.manifest.prompt_ids)}
        wanted = set(order) if prompt_ids is None else set(prompt_ids)
        if unknown := sorted(wanted - set(order)):
            raise ValueError(f"prompt_ids must be of {self.path}, got {', '.join(unknown)}")
        if split is not None and split not in get_args(Split):
            raise ValueError(f"split must be tune or test, got {split!r}")
        texts: list[RecordedText] = []
        absent = set(self.missing)
        for number, shard in enumerate(self.manifest.shards):
            is_wanted = split in (None, shard.split) and not wanted.isdisjoint(shard.prompt_ids)
            if is_wanted and number not in absent:
                found = read_shard(self.path, number, self._record(number), verify)
                texts += [text for text in found if text.prompt_id in wanted]
        return sorted(texts, key=lambda text: (order[text.prompt_id], text.turn))

    def _record(self, number: int) -> ShardRecord:
        return read_record(self.path, number, self.manifest.shards[number], self._digest)


def load_texts(
    folder: str | Path,
    *,
    prompt_ids: Collection[str] | None = None,
    split: Split | None = None,
    verify: bool = True,
) -> list[RecordedText]:
    """The recorded texts of a trace; see `TraceFolder.texts`."""
    return TraceFolder.open(folder).texts(prompt_ids=prompt_ids, split=split, verify=verify)
