"""How every command shows its result: tables, the files it wrote, one line of JSON.

Its options are kept beside the result, in `run.yaml`.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, RenderableType

from adaeagle.data.files import write_whole
from experiments.options import GIVEN


def show(
    summary: Mapping[str, Any],
    parts: Iterable[RenderableType] = (),
    files: Iterable[Path | str] = (),
    *,
    as_json: bool,
) -> None:
    """Shows the result of a run.

    Args:
        summary: the last line of stdout, as JSON.
        parts: tables and sentences for a person.
        files: what the run wrote, one a line that is never wrapped.
        as_json: stdout gets the last line alone; everything else goes to stderr. Without it a
            terminal gets no JSON, a pipe or file does.
    """
    console = Console(stderr=as_json)
    for part in parts:
        console.print(part, highlight=False if isinstance(part, str) else None, markup=False)
    for path in files:
        console.print(str(path), soft_wrap=True, highlight=False, markup=False)
    if as_json or not sys.stdout.isatty():
        print(json.dumps(summary))
    if (out := summary.get("out")) is not None and Path(out).is_dir():
        path, kept = Path(out) / "run.yaml", yaml.safe_dump(GIVEN.get(), sort_keys=False).encode()
        if not path.is_file() or path.read_bytes() != kept:
            write_whole(path, kept)
