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
from random import Random
from typing import Any

import optuna
import pyarrow.csv
import pyarrow.parquet
from matplotlib.figure import Figure
from optuna.exceptions import StorageInternalError
from optuna.study import Study
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from sqlalchemy.exc import SQLAlchemyError

from adaeagle.bench import provenance
from adaeagle.registry import get_policy
from adaeagle.trace.proposer import NotRecordedError
from experiments.errors import InputError, argument
from experiments.sweep import pictures, report, samplers, studies
from experiments.sweep.objective import DECISION, REPEATED, Objective, RepeatedError, results
from experiments.sweep.preparing import GRID, OBJECTIVES, Sweep, SweepSettings, prepare
from experiments.sweep.scoring import Score
from experiments.sweep.sharing import Sharing
from experiments.sweep.suggesting import GridSuggester, TrialSuggester
from experiments.sweep.template import has_gap, kind_of
from experiments.views.plot_style import png

PLAIN = "vanilla"
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
        counts = ("num_trials", "num_repeated", "num_infeasible")
        names = ("out", "study", *counts, "policy", "tokens_per_second", "speedup")
        return {name: self.results[name] for name in names}

    @property
    def sentence(self) -> str:
        """How many trials there were, and whether drafting pays at all."""
        found = self.results
        line = (
            f"{found['num_trials']} trials; {found['num_repeated']} more repeated a setting and "
            f"{found['num_infeasible']} could not run, which do not count"
        )
        if found["policy"] == PLAIN:
            line += "; nothing that was tried is faster than plain decoding"
        return line


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
        pyarrow.csv.write_csv(table, folder.path / "trials.csv")
        pyarrow.parquet.write_table(table, folder.path / "trials.parquet")
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
    try:
        with argument("--storage", studies.without_secrets(settings.storage or ""), must, errors):
            yield
    except InputError as error:
        raise InputError(studies.without_secrets(str(error))) from None


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
    console = Console(stderr=True, markup=False)
    if done:
        console.print(f"{done} of {settings.trials} trials were finished")
    if done >= settings.trials:
        return
    seed = studies.worker_seed(settings.seed, study)
    study.sampler = samplers.make_sampler(settings.sampler, seed)
    pruner = settings.pruner or ("wilcoxon" if settings.is_single else "none")
    study.pruner = samplers.make_pruner(pruner)
    is_grid = settings.sampler == GRID
    sharing = Sharing(
        prepared.templates, prepared.context, Random(seed), settings.trials, end, is_grid
    )
    objective = Objective(
        prepared.templates,
        prepared.scorer,
        prepared.context,
        prepared.check,
        GridSuggester if is_grid else TrialSuggester,
        settings.is_single,
    )
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("trials", total=settings.trials, completed=done)

            def after_each(study: Study, trial: FrozenTrial) -> None:
                progress.update(task, completed=len(studies.finished(study)))
                studies.free_lost_trials(study)
                if not sharing.has_next(study, time.monotonic()):
                    study.stop()

            if sharing.has_next(study):
                study.optimize(objective, callbacks=[after_each], catch=(RepeatedError,))
    except KeyboardInterrupt:
        console.print(
            f"interrupted: {len(studies.finished(study))} of {settings.trials} trials are kept; "
            "the same command goes on from there"
        )
        raise


def _found(prepared: Sweep, study: Study) -> dict[str, Any]:
    """What goes into best.json."""
    settings, scorer, trials = prepared.settings, prepared.scorer, report.tried(study)
    refusals = [result.refused for result in results(study) if result.refused]
    num_repeated = refusals.count(REPEATED)
    counts = {
        "num_trials": len(studies.finished(study)),
        "num_repeated": num_repeated,
        "num_infeasible": len(refusals) - num_repeated,
    }
    if not trials:
        why = next((each for each in refusals[::-1] if each != REPEATED), "no trial has ended")
        raise InputError(
            f"--policies must have a feasible value, {len(refusals)} trials found none: {why}"
        )
    vanilla = get_policy(PLAIN)
    plain = _score_json(PLAIN, scorer.whole_score(vanilla, scorer.decision_seconds(vanilla)))
    best = report.fastest(report.whole(trials)).to_json()
    if best["tokens_per_second"] <= plain["tokens_per_second"]:
        best = plain
    families = report.families(trials, list(prepared.templates), prepared.published)
    for text, family in families.items():
        family["published"] = family["published"] or _defaults(prepared, study, text)
    found = {
        "out": str(prepared.folder.path),
        "study": settings.study,
        "storage": settings.storage and studies.without_secrets(settings.storage),
        "objectives": settings.objectives,
        **best,
        "seconds": scorer.num_tokens / best["tokens_per_second"],
        "speedup": best["tokens_per_second"] / plain["tokens_per_second"],
        "plain": plain,
        "num_prompts": len(scorer.prompt_ids),
        **counts,
        "families": families,
        "cost_quality": scorer.cost.about.get("quality"),
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
    return _score_json(call.spec(), score)


def _score_json(spec: str, score: Score) -> dict[str, Any]:
    """A policy that is no trial's, as `Tried.to_json` has it."""
    return {
        "policy": spec,
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
    templates, plain = list(prepared.templates), found["plain"]["tokens_per_second"]
    winner = report.fastest(report.whole(trials)).result.template
    figures = {"history.png": pictures.history(trials, templates, plain)}
    if pictures.varied(trials, winner):
        figures["slices.png"] = pictures.slices(trials, winner)
    if not prepared.settings.is_single:
        figures["pareto.png"] = pictures.pareto(trials, templates, plain)
    return figures
