"""A sweep from its beginning to its folder.

Question: which settings of these policies are the fastest on this machine, as far as recorded texts
can tell? Only texts of the tune split are read.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.exceptions import StorageInternalError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import SQLAlchemyError

from adaeagle.bench import provenance
from adaeagle.registry import get_policy
from adaeagle.trace.proposer import NotRecordedError
from experiments.errors import InputError, argument
from experiments.sweep import pictures, report, samplers, studies
from experiments.sweep.objective import DECISION, Objective
from experiments.sweep.preparing import GRID, OBJECTIVES, Sweep, SweepSettings, prepare
from experiments.sweep.suggesting import GridSuggester, TrialSuggester
from experiments.sweep.template import has_gap, kind_of
from experiments.views.plot_style import png

FILES = (".json", ".csv", ".parquet", ".png")


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep found and where it is written."""

    results: dict[str, Any]  # `best.json`
    trials: list[report.Tried]
    is_single: bool  # one objective
    files: list[Path]

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        names = ("out", "study", "num_trials", "policy", "tokens_per_second", "speedup")
        return {name: self.results[name] for name in names}


def sweep(settings: SweepSettings) -> SweepResult:
    """Runs a sweep, or the rest of one, beside whoever else works on the same study.

    Raises:
        InputError: a setting cannot be used, or nothing that was tried could be replayed.
    """
    samplers.silence()
    end = math.inf if settings.seconds is None else time.monotonic() + settings.seconds
    prepared = prepare(settings)
    with _storage(settings, (StorageInternalError, SQLAlchemyError)):
        study = _open(prepared)
        _run(prepared, study, end)
        found, trials = _found(prepared, study), report.tried(study)
        table = report.trials_table(study)
    folder = prepared.folder
    with argument("--out", str(folder.path), "a folder that can be written", OSError):
        prepared.scorer.cost.save(folder.path / "cost.json")
        folder.write("best.json", json.dumps(found, indent=1) + "\n")
        folder.write("trials.csv", report.as_csv(table))
        folder.write("trials.parquet", report.as_parquet(table))
        if prepared.trees is not None:
            paths = [list(path) for path in prepared.trees.best.paths]
            folder.write("static_tree.json", json.dumps(paths) + "\n")
        for name, figure in _figures(prepared, trials, found).items():
            folder.write(name, png(figure))
    files = sorted(each for each in folder.path.iterdir() if each.suffix in FILES)
    return SweepResult(found, trials, settings.is_single, files)


@contextmanager
def _storage(
    settings: SweepSettings, errors: type[Exception] | tuple[type[Exception], ...]
) -> Iterator[None]:
    """Blames a study that cannot be reached on its storage."""
    must = "an Optuna storage URL or journal:FILE that can be reached"
    with argument("--storage", settings.storage, must, errors):
        yield


def _open(prepared: Sweep) -> Study:
    settings = prepared.settings
    with _storage(settings, Exception):
        storage = studies.open_storage(settings.storage, prepared.folder.path)
        optuna.get_all_study_names(storage)  # asks it something, before it is relied on
    with argument("--study", settings.study, errors=ValueError):
        return studies.open_study(
            settings.study,
            storage,
            prepared.identity,
            OBJECTIVES[settings.objectives],
            prepared.first,
        )


def _run(prepared: Sweep, study: Study, end: float) -> None:
    """Runs trials until there are enough or it is `end` of the clock, with a bar on stderr."""
    settings = prepared.settings
    studies.free_lost_trials(study)
    done = len(studies.finished(study))
    console = Console(stderr=True)
    if done:
        console.print(f"{done} of {settings.trials} trials were finished")
    if done >= settings.trials:
        return
    seed = studies.worker_seed(settings.seed, study)
    study.sampler = samplers.make_sampler(settings.sampler, seed)
    pruner = settings.pruner or ("wilcoxon" if settings.is_single else "none")
    study.pruner = samplers.make_pruner(pruner)
    objective = Objective(
        prepared.templates,
        prepared.scorer,
        prepared.context,
        prepared.check,
        GridSuggester if settings.sampler == GRID else TrialSuggester,
        settings.is_single,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("trials", total=settings.trials, completed=done)

            def after_each(study: Study, trial: FrozenTrial) -> None:
                done = len(studies.finished(study))
                progress.update(task, completed=done)
                if done >= settings.trials or (time.monotonic() >= end and not _queued(study)):
                    study.stop()
                studies.free_lost_trials(study)

            study.optimize(objective, callbacks=[after_each])
    except KeyboardInterrupt:
        console.print(
            f"interrupted: {len(studies.finished(study))} of {settings.trials} trials are kept; "
            "the same command goes on from there"
        )
        raise


def _queued(study: Study) -> bool:
    """Whether something is to be tried whatever the time: what was published."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def _found(prepared: Sweep, study: Study) -> dict[str, Any]:
    """What goes into best.json."""
    settings, scorer, trials = prepared.settings, prepared.scorer, report.tried(study)
    num_trials = len(studies.finished(study))
    if not trials:
        raise InputError(
            f"--policies must have a feasible value, {num_trials} trials found none: "
            f"{report.last_refusal(study)}"
        )
    best = report.fastest(report.whole(trials))
    vanilla = get_policy("vanilla")
    plain = scorer.whole_score(vanilla, scorer.decision_seconds(vanilla)).tokens_per_second
    families = report.families(trials, list(prepared.templates), prepared.published)
    for text, family in families.items():
        family["published"] = family["published"] or _defaults(prepared, study, text)
    found = {
        "out": str(prepared.folder.path),
        "study": settings.study,
        "storage": settings.storage,
        "objectives": settings.objectives,
        **best.to_json(),
        "seconds": scorer.num_tokens / best.speed,
        "speedup": best.speed / plain,
        "plain_tokens_per_second": plain,
        "num_prompts": len(scorer.prompt_ids),
        "num_trials": num_trials,
        "families": families,
        "models": {
            name: getattr(prepared.models, name) for name in ("target", "drafter", "drafter_kind")
        },
        "identity": prepared.identity,
        "versions": provenance.versions(),
        "git": provenance.git(),
    }
    if not settings.is_single:
        found["pareto"] = [one.to_json() for one in report.pareto_front(trials)]
    return found


def _defaults(prepared: Sweep, study: Study, text: str) -> dict[str, Any] | None:
    """A template with its defaults, where they are out of bounds and no trial can be of them."""
    call, scorer = prepared.templates[text], prepared.scorer
    if has_gap(call):
        return None
    try:
        policy = get_policy(call.spec())
        decision = study.user_attrs.get(DECISION + kind_of(call)) or scorer.decision_seconds(policy)
        score = scorer.whole_score(policy, decision)
    except (ValueError, NotRecordedError):
        return None
    return {
        "policy": call.spec(),
        "tokens_per_second": score.tokens_per_second,
        "tokens_per_round": score.num_tokens / max(1, score.num_rounds),
        "verified_per_token": score.verified_per_token,
        "judged_on": None,
        "parameters": {},
        "trial": None,
    }


def _figures(
    prepared: Sweep, trials: list[report.Tried], found: Mapping[str, Any]
) -> dict[str, Figure]:
    templates, plain = list(prepared.templates), found["plain_tokens_per_second"]
    winner = report.fastest(report.whole(trials)).result.template
    figures = {"history.png": pictures.history(trials, templates, plain)}
    if pictures.varied(trials, winner):
        figures["slices.png"] = pictures.slices(trials, winner)
    if not prepared.settings.is_single:
        figures["pareto.png"] = pictures.pareto(trials, templates, plain)
    return figures
