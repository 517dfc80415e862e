"""A shard of recorded texts on disk.

    texts/00000.parquet         a row a text
    tokens/00000.parquet        a row a new token
    nodes/00000.parquet         a row a drafted node
    features/00000.safetensors  what target and draft model read and said inside
    shards/00000.json           the commit record: size and SHA-256 of the others; written last

Every file is whole or absent, and a shard without its record is not there at all. The files hold
the texts and nothing else, so the same texts give the same bytes.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from adaeagle.data.files import write_whole
from adaeagle.trace.manifest import Shard
from adaeagle.trace.tables import NEEDED, feature_name, from_tables, to_tables
from adaeagle.trace.text import RecordedText

TABLES = ("texts", "tokens", "nodes")
FOLDERS = (*TABLES, "features", "shards")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What a file must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What one shard holds."""

    trace: str  # the manifest's digest
    prompt_ids: list[str]
    num_texts: int
    num_tokens: int
    num_positions: int
    num_nodes: int
    files: dict[str, StoredFile]

    @property
    def num_bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "ShardRecord":
        files = {name: StoredFile(**file) for name, file in raw["files"].items()}
        return cls(**{**raw, "files": files})


def record_path(folder: Path, number: int) -> Path:
    """The commit record of a shard."""
    return folder / "shards" / f"{number:05d}.json"


def write_shard(
    folder: Path, number: int, shard: Shard, texts: Sequence[RecordedText], trace: str
) -> ShardRecord:
    """Writes a shard, its record last.

    Args:
        folder: of the trace, with `FOLDERS` in it.
        number: of the shard.
        shard: its split and prompts.
        texts: of these prompts, in order.
        trace: the digest of the manifest.

    Raises:
        OSError: it cannot be written.
    """
    files = {}
    for name, content in _contents(texts, shard.split, number):
        write_whole(folder / name, content)
        files[name] = StoredFile(len(content), hashlib.sha256(content).hexdigest())
    record = ShardRecord(
        trace=trace,
        prompt_ids=list(shard.prompt_ids),
        num_texts=len(texts),
        num_tokens=sum(len(text.token_ids) for text in texts),
        num_positions=sum(text.num_positions for text in texts),
        num_nodes=sum(text.envelope.num_nodes for text in texts),
        files=files,
    )
    write_whole(record_path(folder, number), (json.dumps(asdict(record), indent=1) + "\n").encode())
    return record


def _contents(
    texts: Sequence[RecordedText], split: str, number: int
) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file but the record, one in memory at a time."""
    for name, table in to_tables(texts, split).items():
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        yield f"{name}/{number:05d}.parquet", sink.getvalue().to_pybytes()
    features: dict[str, Tensor] = {}
    for text in texts:
        for kind in ("features", "draft_features"):
            found = getattr(text, kind)
            if found is not None:
                # Of one storage each, as safetensors wants it.
                whole = found.detach().cpu().clone(memory_format=torch.contiguous_format)
                features[feature_name(kind, text.prompt_id, text.turn)] = whole
    # Without metadata, which safetensors orders at random.
    yield f"features/{number:05d}.safetensors", safetensors.torch.save(features)


def read_record(folder: Path, number: int, shard: Shard, trace: str) -> ShardRecord:
    """The record of a shard that is there.

    Raises:
        ValueError: it is damaged, or of another shard or trace.
    """
    path = record_path(folder, number)
    try:
        record = ShardRecord.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, {_REMEDY}: {error}") from None
    if record.trace != trace:
        raise ValueError(f"{path} is of another trace than {folder / 'manifest.json'} tells")
    if record.prompt_ids != shard.prompt_ids:
        raise ValueError(
            f"{path} must hold the prompts {shard.prompt_ids}, got {record.prompt_ids}"
        )
    return record


def read_shard(folder: Path, number: int, record: ShardRecord, verify: bool) -> list[RecordedText]:
    """The texts of a shard; features are mapped, not read.

    Args:
        folder: of the trace.
        number: of the shard.
        record: its commit record.
        verify: whether to hold the files against their checksums; sizes always are.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not the one that was written.
    """
    for name, file in record.files.items():
        _check(folder / name, file, verify)
    tables = {
        name: pq.read_table(folder / name / f"{number:05d}.parquet", columns=NEEDED.get(name))
        for name in TABLES
    }
    with safe_open(folder / "features" / f"{number:05d}.safetensors", framework="pt") as stored:
        features = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    return from_tables(tables, features)


_REMEDY = "delete the shard's file in shards/ and record again what is missing"


def _check(path: Path, file: StoredFile, verify: bool) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {_REMEDY}")
    size = path.stat().st_size
    if size != file.bytes:
        raise ValueError(f"{path} must be of {file.bytes} bytes, got {size}: {_REMEDY}")
    if verify:
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != file.sha256:
            raise ValueError(
                f"{path} must have the SHA-256 {file.sha256[:16]}..., got {found[:16]}...: "
                f"{_REMEDY}"
            )
