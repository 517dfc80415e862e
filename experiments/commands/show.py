"""How every command shows its result: tables, the files it wrote, one line of JSON."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType


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
        as_json: stdout gets the last line alone; everything else goes to stderr.
    """
    console = Console(stderr=as_json)
    for part in parts:
        console.print(part, highlight=False if isinstance(part, str) else None, markup=False)
    for path in files:
        console.print(str(path), soft_wrap=True, highlight=False, markup=False)
    print(json.dumps(summary))
