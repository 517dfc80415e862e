"""The stages of a study, each one of the other commands with settings of its own.

trace/         texts and drafts of all prompts          `adaeagle trace`
profile/       cost.json, measured on tune prompts      `adaeagle profile`
predictors/    a folder a kind                          `adaeagle train-predictor`
sweeps/        a folder a family                        `adaeagle sweep`
confirm/       live on test prompts                     `adaeagle confirm`
report.html    the leaderboard, the sweeps, the stages
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from adaeagle.data.files import write_whole
from adaeagle.data.splits import TUNE, split_of
from adaeagle.trace.folder import TraceFolder
from experiments.confirm import running as confirming
from experiments.errors import InputError, argument
from experiments.runs import profile as profiling
from experiments.runs import trace as tracing
from experiments.runs import train_predictor as predictor_training
from experiments.runs.settings import load_prompts
from experiments.study.planning import Policies, StudySettings, each, predictor_kinds, tunable
from experiments.sweep import preparing as sweep_settings
from experiments.sweep import running as sweeping

TUNE_PROMPTS = "tune.jsonl"


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage came to."""

    done: str
    cut: list[str]  # what there was no time for, and what could not be had


@dataclass(frozen=True, slots=True)
class Study:
    """A study's settings and where its parts lie."""

    settings: StudySettings

    @property
    def trace(self) -> Path:
        return self.settings.out / "trace"

    @property
    def cost(self) -> Path:
        return self.settings.out / "profile" / "cost.json"

    @property
    def sweeps(self) -> Path:
        return self.settings.out / "sweeps"

    @property
    def confirm(self) -> Path:
        return self.settings.out / "confirm"

    def predictors(self) -> dict[str, Path]:
        """Those that were trained, by kind."""
        folder = self.settings.out / "predictors"
        return {kind: folder / kind for kind in _folders_with(folder, "result.json")}

    def swept(self) -> dict[str, Path]:
        """The finished sweeps, by name."""
        return {name: self.sweeps / name for name in _folders_with(self.sweeps, "best.json")}


def _folders_with(folder: Path, name: str) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{name}"))


def record_trace(study: Study, seconds: float | None) -> StageResult:
    """Prompts are recorded in an order in which any beginning has prompts of every task."""
    settings = study.settings
    result = tracing.trace(
        tracing.TraceSettings(
            out=study.trace,
            models=settings.models,
            prompts=settings.prompts,
            limit=settings.limit or len(load_prompts(settings.prompts, None)),
            max_new_tokens=settings.max_new_tokens,
            prompts_per_shard=2,
            seconds=seconds,
        )
    )
    assert result is not None  # one process
    folder = TraceFolder.open(study.trace)
    done, total = folder.num_recorded, len(folder.manifest.prompt_ids)
    cut = [] if folder.complete else [f"{total - done} of {total} prompts were not recorded"]
    return StageResult(f"{result.num_texts} texts, {result.num_positions} positions", cut)


def measure_profile(study: Study, seconds: float | None) -> StageResult:
    """On prompts of the tune split alone."""
    settings = study.settings
    path = study.settings.out / TUNE_PROMPTS
    split = split_of(load_prompts(settings.prompts, None))
    chosen = load_prompts(settings.prompts, settings.limit)
    tune = [asdict(prompt) for prompt in chosen if split[prompt.id] == TUNE]
    lines = (json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in tune)
    with argument("--out", str(path), "a file that can be written", OSError):
        write_whole(path, "".join(lines).encode())
    result = profiling.profile(
        profiling.ProfileSettings(
            models=settings.models,
            seconds=seconds,
            prompts=str(path),
            seed=settings.seed,
            out=study.cost.parent,
        )
    )
    return StageResult(f"{result.num_rounds} rounds measured", [])


def train_predictors(study: Study, seconds: float | None) -> StageResult:
    """Those that the policies to be swept ask, one after another."""
    settings = study.settings
    if settings.policies is not None:
        return StageResult("none: policies were given", [])
    began, cut = time.monotonic(), list[str]()
    kinds = predictor_kinds()
    for place, kind in enumerate(kinds):
        if seconds is not None and time.monotonic() >= began + seconds:
            cut.append(f"{kind}: no time was left")
            continue
        given = predictor_training.TrainPredictorSettings(
            kind=kind,
            trace=study.trace,
            out=study.settings.out / "predictors" / kind,
            cost=study.cost,
            partial=True,
            max_seconds=each(seconds, began, len(kinds) - place),
            seed=settings.seed,
            devices=1,
        )
        try:
            predictor_training.run_checked(given)
        except InputError as error:
            cut.append(f"{kind}: {error}")
    return StageResult(", ".join(study.predictors()) or "none", cut)


def run_sweeps(study: Study, seconds: float | None) -> StageResult:
    """Every family gets a sweep of its own, of as many trials or as much time."""
    settings, began = study.settings, time.monotonic()
    policies = _policies(study)
    cut, num_trials = list(policies.left_out), 0
    for place, (name, template) in enumerate(policies.templates.items()):
        Console(stderr=True, markup=False).print(
            f"sweep {place + 1} of {len(policies.templates)}: {template}", soft_wrap=True
        )
        try:
            result = sweeping.sweep(
                sweep_settings.SweepSettings(
                    trace=study.trace,
                    policies=[template],
                    cost=study.cost,
                    trials=settings.trials,
                    seconds=each(seconds, began, len(policies.templates) - place),
                    seed=settings.seed,
                    study=name,
                    device=settings.models.device,
                    threads=settings.models.threads,
                    out=study.sweeps / name,
                )
            )
        except InputError as error:
            cut.append(f"{name}: {error}")
            continue
        done = result.results["num_trials"]
        num_trials += done
        if done < settings.trials:
            cut.append(f"{name}: {done} of {settings.trials} trials")
    if not study.swept():
        raise InputError(f"--policies must name what can be swept: {'; '.join(cut)}")
    num_families = len(study.swept())
    what = "family" if num_families == 1 else "families"
    return StageResult(f"{num_families} {what}, {num_trials} trials", cut)


def _policies(study: Study) -> Policies:
    given = study.settings.policies
    if given is None:
        return tunable(study.predictors(), study.cost)
    # Folders are numbered: a template can be too long for a name, and hold what no name may.
    return Policies({f"{place:02}": text for place, text in enumerate(given, start=1)}, [])


def confirm_live(study: Study, seconds: float | None) -> StageResult:
    """The best of each family and what was published of it."""
    settings = study.settings
    found = confirming.confirm(
        confirming.ConfirmSettings(
            sweeps=list(study.swept().values()),
            trace=study.trace,
            seconds=seconds,
            device=settings.models.device,
            threads=settings.models.threads,
            out=study.confirm,
        )
    ).results
    done, total = found["num_prompts"], found["num_test_prompts"]
    cut = [] if done == total else [f"{total - done} of {total} test prompts were not run"]
    return StageResult(f"{len(found['families'])} families on {done} test prompts", cut)


STAGES: dict[str, tuple[float, Callable[[Study, float | None], StageResult]]] = {
    "trace": (22.0, record_trace),
    "profile": (6.0, measure_profile),
    "predictors": (13.0, train_predictors),
    "sweeps": (27.0, run_sweeps),
    "confirm": (27.0, confirm_live),
}
"""In their order, with their shares of the time; what is left is for what cannot be cut short."""
RESERVE = 5.0
