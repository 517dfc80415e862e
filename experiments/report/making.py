"""A report from its run's folder to its file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from adaeagle.data.files import write_whole
from experiments.errors import argument
from experiments.report.explorer import Explored, explore
from experiments.report.finished import Finished, read_run
from experiments.report.page import render
from experiments.report.replayed_rounds import NothingToExploreError


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a report is told."""

    run: Path
    num_explored: int = 6
    out: Path | None = None


def make_report(settings: Settings, *, as_json: bool) -> None:
    """Writes the page of a finished run.

    Args:
        settings: of which run, and how much of it.
        as_json: stdout gets the last line alone; the rest goes to stderr.

    Raises:
        InputError: there is no finished run, or the page cannot be written.
    """
    run = read_run(settings.run)
    explored: Explored | str
    try:
        with Console(stderr=True).status("playing rounds again"):
            explored = explore(run, settings.num_explored)
    except NothingToExploreError as error:
        explored = str(error)
    path = settings.out or settings.run / "report.html"
    page = render(run, explored).encode()
    with argument("--out", str(path), "a file that can be written", OSError):
        write_whole(path, page)
    console = Console(stderr=as_json)
    for remark in explored.remarks if isinstance(explored, Explored) else ():
        console.print(remark, highlight=False)
    console.print(_summary(run, explored, path, len(page)), soft_wrap=True, highlight=False)
    print(json.dumps(_last_line(run, explored, path, len(page))))


def _summary(run: Finished, explored: Explored | str, path: Path, size: int) -> str:
    content = f"{path}: {size / 1e6:.1f} MB, {len(run.arms)} policies on {len(run.records)} prompts"
    if isinstance(explored, str):
        return f"{content}; without an explorer: {explored}"
    policies = len(explored.data["policies"])
    return f"{content}; rounds of {policies} policies on {len(explored.prompt_ids)} of them"


def _last_line(run: Finished, explored: Explored | str, path: Path, size: int) -> dict[str, Any]:
    line: dict[str, Any] = {
        "out": str(path),
        "bytes": size,
        "num_policies": len(run.arms),
        "num_prompts": len(run.records),
        "explored_prompts": [],
        "explored_policies": [],
        "without_explorer": None,
    }
    if isinstance(explored, str):
        return line | {"without_explorer": explored}
    policies = [one["name"] for one in explored.data["policies"]]
    return line | {"explored_prompts": explored.prompt_ids, "explored_policies": policies}
