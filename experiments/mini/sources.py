"""Where `mini`'s text comes from: open, not share-alike sources of mixed difficulty.

The data folder holds one `NAME.train.jsonl.gz` and one `NAME.heldout.jsonl.gz` a source, each
line a record with either `messages` (a conversation) or `text` (plain prose).
"""

import gzip
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Source:
    """One origin of text, and its share of the tokens the target is trained on."""

    name: str
    share: float
    category: str
    origin: str
    commit: str
    licence: str
    attribution: str
    max_turns: int = 1


_TABLE = tomllib.loads((files("experiments.mini") / "sources.toml").read_text(encoding="utf-8"))
SOURCES = tuple(Source(**row) for row in _TABLE["source"])


def read_records(data: Path, source: Source, split: str) -> Iterator[dict[str, Any]]:
    """The records of one source; `split` is `train` or `heldout`."""
    path = data / f"{source.name}.{split}.jsonl.gz"
    if not path.is_file():
        raise FileNotFoundError(f"--data must hold {path.name}, not found in {data}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
