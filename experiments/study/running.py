"""A study from two models to a leaderboard.

Question: which policies, each tuned on equal terms for this target, this draft model and this
machine, win live on prompts they have not seen, and by how much?
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from adaeagle.bench.run_folder import RunFolder
from experiments.confirm.page import Page, render
from experiments.confirm.pictures import short
from experiments.confirm.running import summary
from experiments.errors import InputError, argument
from experiments.report.pages import Picture, png_picture
from experiments.runs.settings import load_prompts, open_folder, run_identity
from experiments.study.planning import StudySettings, TimeBudget, described
from experiments.study.stages import RESERVE, STAGES, Study
from experiments.sweep.template import parse
from experiments.views.sheet import Sheet

STATE, PAGE, RESULTS = "stages.json", "report.html", "results.json"
PICTURES = {"history.png": "Speed of every trial", "slices.png": "Speed by parameter"}


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What all stages of a study came to and where it is written."""

    results: dict[str, Any]  # `results.json`
    out: Path
    was_done: bool  # before this run

    @property
    def files(self) -> list[Path]:
        return [self.out / RESULTS, self.out / PAGE]

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        stages = self.results["stages"]
        return {
            **summary(self.results),
            "out": str(self.out),
            "was_done": self.was_done,
            "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
            "stages": stages,
        }


def run_study(settings: StudySettings) -> StudyResult:
    """Runs the stages that are not done yet, and writes the folder.

    Raises:
        InputError: a setting cannot be used.
    """
    folder = _open(settings)
    study, state = Study(settings), _read_state(folder)
    todo = [name for name in STAGES if name not in state]
    is_new = bool(todo) or not (folder.path / RESULTS).is_file()
    if is_new:
        _run_stages(study, state, folder)
        _write(study, state, folder)
    found = json.loads((folder.path / RESULTS).read_bytes())
    return StudyResult(found, folder.path, was_done=not is_new)


def _open(settings: StudySettings) -> RunFolder:
    if settings.time_budget is not None and settings.time_budget <= 0:
        raise InputError(f"--time-budget must be > 0, got {settings.time_budget}")
    for text in settings.policies or ():
        with argument("--policies", text):
            parse(text)
    if settings.models.threads is not None:
        torch.set_num_threads(settings.models.threads)
    prompts = load_prompts(settings.prompts, settings.limit)
    return open_folder("study", settings.out, run_identity(described(settings), prompts))


def _read_state(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """The stages that are done."""
    path = folder.path / STATE
    with argument("--out", str(folder.path), "the folder of a study", (OSError, ValueError)):
        found: dict[str, dict[str, Any]] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def _run_stages(study: Study, state: dict[str, dict[str, Any]], folder: RunFolder) -> None:
    """Each stage is kept as done when it is; an interrupted one goes on where it was."""
    shares = {name: share for name, (share, _) in STAGES.items()} | {"report": RESERVE}
    budget = TimeBudget(study.settings.time_budget, shares)
    console = Console(stderr=True, markup=False)
    for name in state:
        budget.skip(name)
        console.print(f"{name}: was done")
    for name, (_, run) in STAGES.items():
        if name in state:
            continue
        seconds, began = budget.begin(name), time.monotonic()
        console.print(f"{name}{'' if seconds is None else f': {seconds:.0f} seconds'}")
        try:
            outcome = run(study, seconds)
        except InputError as error:
            raise InputError(f"stage {name}: {error}") from error
        spent = time.monotonic() - began
        state[name] = {"seconds": round(spent, 1), "done": outcome.done, "cut": outcome.cut}
        with argument("--out", str(folder.path), "a folder that can be written", OSError):
            folder.write(STATE, json.dumps(state, indent=1) + "\n")


def _write(study: Study, state: dict[str, dict[str, Any]], folder: RunFolder) -> None:
    """The page and `results.json`: those of the confirmation, with stages and sweeps."""
    with argument("--out", str(study.confirm), "a finished confirmation", (OSError, ValueError)):
        found = json.loads((study.confirm / RESULTS).read_bytes())
    found["stages"] = state
    page = Page(found, state, _pictures(study))
    with argument("--out", str(folder.path), "a folder that can be written", OSError):
        folder.write(PAGE, render(page))
        folder.write(RESULTS, json.dumps(found, indent=1) + "\n")


def _pictures(study: Study) -> dict[str, list[Picture]]:
    """What each sweep drew, by family."""
    drawn: dict[str, list[Picture]] = {}
    for path in study.swept().values():
        [family] = json.loads((path / "best.json").read_bytes())["families"]
        drawn[short(family)] = [
            png_picture(f"{alt}, {short(family)}", (path / name).read_bytes())
            for name, alt in PICTURES.items()
            if (path / name).is_file()
        ]
    return drawn


def stage_table(stages: dict[str, dict[str, Any]]) -> Sheet:
    """What every stage did, and how long it took."""
    return Sheet(
        "stages",
        list(stages.items()),
        {
            "stage": lambda row: row[0],
            "done": lambda row: row[1]["done"],
            "cut for want of time, left out": lambda row: "; ".join(row[1]["cut"]),
        },
        {"seconds": lambda row: f"{row[1]['seconds']:.0f}"},
    )
