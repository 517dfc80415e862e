"""A report from its run's folder to its file."""

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
class ReportSettings:
    """Settings of a report."""

    run: Path
    num_explored: int = 6
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class ReportResult:
    """A page and what it shows."""

    run: Finished
    explored: Explored | str  # a text: why there is no explorer
    path: Path
    num_bytes: int

    @property
    def remarks(self) -> list[str]:
        """What the explorer could not show."""
        return [] if isinstance(self.explored, str) else self.explored.remarks

    @property
    def sentence(self) -> str:
        """The page in one line."""
        shown = self.summary
        what = f"{shown['num_policies']} policies on {shown['num_prompts']} prompts"
        rest = f"; without an explorer: {shown['without_explorer']}"
        if shown["without_explorer"] is None:
            policies, prompts = shown["explored_policies"], shown["explored_prompts"]
            rest = f"; rounds of {len(policies)} policies on {len(prompts)} of them"
        return f"{self.path}: {self.num_bytes / 1e6:.1f} MB, {what}{rest}"

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        explored = None if isinstance(self.explored, str) else self.explored
        policies = [] if explored is None else explored.data["policies"]
        return {
            "out": str(self.path),
            "bytes": self.num_bytes,
            "num_policies": len(self.run.arms),
            "num_prompts": len(self.run.records),
            "explored_prompts": [] if explored is None else explored.prompt_ids,
            "explored_policies": [one["name"] for one in policies],
            "without_explorer": self.explored if explored is None else None,
        }


def make_report(settings: ReportSettings) -> ReportResult:
    """Writes the page of a finished run.

    Raises:
        InputError: there is no finished run, or the page cannot be written.
    """
    run = read_run(settings.run)
    explored: Explored | str
    try:
        with Console(stderr=True).status("replaying rounds"):
            explored = explore(run, settings.num_explored)
    except NothingToExploreError as error:
        explored = str(error)
    path = settings.out or settings.run / "report.html"
    page = render(run, explored).encode()
    with argument("--out", str(path), "a file that can be written", OSError):
        write_whole(path, page)
    return ReportResult(run, explored, path, len(page))
