"""A sweep from its settings to its folder.

Question: which settings of these policies are the fastest on this machine, as far as recorded texts
can tell? Only texts of the tune split are read.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.study import MaxTrialsCallback, Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adaeagle.bench import provenance
from adaeagle.bench.run_folder import RunFolder
from adaeagle.policy import Policy
from adaeagle.registry import get_policy
from adaeagle.search import Tree, Whole
from adaeagle.splits import TUNE
from adaeagle.trace.manifest import Manifest
from experiments.commands.failure import InputError, argument
from experiments.plot_style import png
from experiments.replaying import load_cost, load_trace, open_trace
from experiments.run import open_folder
from experiments.sweep import pictures, report, samplers, studies
from experiments.sweep.asking import (
    FITTED,
    POLICY,
    GridAsker,
    InfeasibleError,
    Option,
    Published,
    TrialAsker,
    ask,
    published,
)
from experiments.sweep.objective import Objective
from experiments.sweep.scoring import Scorer
from experiments.sweep.template import Call, parse, rule_names, searched
from experiments.sweep.trees import FittedTrees

SECONDS, SPEED_AND_NODES = "seconds", "speed-and-nodes"
OBJECTIVES = {
    SECONDS: [StudyDirection.MINIMIZE],
    SPEED_AND_NODES: [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE],
}
POLICIES = ("chain", "chain(stop=?)", "static_tree", "eagle2")
MODELS = ("target", "drafter", "drafter_kind")
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a sweep is told."""

    trace: Path
    policies: Sequence[str] = POLICIES
    cost: Path | None = None
    trials: int = 200
    sampler: str = "tpe"
    pruner: str | None = None  # None: wilcoxon where there is one objective
    objectives: str = SECONDS
    seed: int = 0
    storage: str | None = None
    study: str = "sweep"
    strict: bool = False
    device: str | None = None
    threads: int | None = None
    out: Path | None = None

    @property
    def is_single(self) -> bool:
        return self.objectives == SECONDS


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep ready to run: everything it was told has been checked."""

    settings: Settings
    templates: dict[str, Call]
    scorer: Scorer
    trees: FittedTrees | None
    folder: RunFolder
    identity: dict[str, Any]
    source: Manifest
    first: list[dict[str, Option]] = field(default_factory=list)

    def check(self, policy: Policy) -> None:
        """Refuses a policy that was made for other models than those of the trace."""
        feature_size = self.scorer.trace.texts[0].features.shape[1]
        policy.check(lambda: self.source.models(feature_size))

    def fit(self, nodes: int, depth: int) -> list[list[int]]:
        """The best static tree of at most so many nodes and levels."""
        assert self.trees is not None
        return self.trees.paths(nodes, depth)


def sweep(settings: Settings, *, as_json: bool) -> None:
    """Runs a sweep, or the rest of one, beside whoever else works on the same study.

    Args:
        settings: what to search.
        as_json: stdout gets the last line alone; tables go to stderr.

    Raises:
        InputError: a setting cannot be used, or nothing that was tried could be replayed.
    """
    prepared = _prepare(settings)
    with _storage_errors(settings):
        study = _open(prepared)
        _run(prepared, study)
        found = _found(prepared, study)
        table = report.trials_table(study)
    folder = prepared.folder
    with argument("--out", str(folder.path), "a folder that can be written", OSError):
        folder.write("best.json", json.dumps(found, indent=1) + "\n")
        folder.write("trials.csv", report.as_csv(table))
        folder.write("trials.parquet", report.as_parquet(table))
        if prepared.trees is not None:
            paths = [list(path) for path in prepared.trees.best.paths]
            folder.write("static_tree.json", json.dumps(paths) + "\n")
        _draw(prepared, study, found["plain_tokens_per_second"])
    _show(prepared, study, found, Console(stderr=as_json))
    print(json.dumps(_last_line(found)))


def _prepare(settings: Settings) -> Sweep:
    samplers.silence()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    _check_options(settings)
    templates = _parse(settings.policies)
    source = open_trace(settings.trace)
    cost, cost_path = load_cost(settings.cost, settings.trace)
    trace = load_trace(source, TUNE, None if settings.strict else settings.device or "")
    dimension = _tree_dimension(templates.values())
    identity = {
        "trace": source.manifest.digest,
        "num_texts": len(trace.texts),
        "cost": sha256(json.dumps(cost.to_json(), sort_keys=True).encode()).hexdigest(),
        "policies": list(templates),
        "rules": rule_names(),
        "objectives": settings.objectives,
        "grid": settings.sampler == "grid",
        "strict": settings.strict,
    }
    told = {"study": settings.study, "storage": settings.storage, "trace": str(settings.trace)}
    config = {"config": {**identity, **told, "cost_path": str(cost_path)}}
    folder = open_folder("sweep", settings.out, config)
    scorer = Scorer(trace, cost)
    trees = None if dimension is None else FittedTrees(trace, cost, dimension)
    prepared = Sweep(settings, templates, scorer, trees, folder, identity, source.manifest)
    _check_templates(prepared)
    if settings.sampler != "grid":  # a grid holds the published values anyway
        prepared.first.extend(_first(prepared))
    return prepared


def _check_options(settings: Settings) -> None:
    if settings.objectives not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise InputError(f"--objectives must be one of {known}, got {settings.objectives!r}")
    with argument("--sampler", settings.sampler):
        samplers.make_sampler(settings.sampler, settings.seed)
    if settings.sampler in samplers.ONE_OBJECTIVE and not settings.is_single:
        raise InputError(
            f"--sampler {settings.sampler} must have one objective, got {settings.objectives}"
        )
    if settings.pruner is not None:
        with argument("--pruner", settings.pruner):
            samplers.make_pruner(settings.pruner)
        if settings.pruner != "none" and not settings.is_single:
            raise InputError(
                f"--pruner {settings.pruner} must have one objective, got {settings.objectives}"
            )


def _parse(policies: Sequence[str]) -> dict[str, Call]:
    templates: dict[str, Call] = {}
    for text in policies:
        with argument("--policies", text):
            call = parse(text)
            if templates.setdefault(text.strip(), call) is not call:
                raise ValueError(f"templates must differ, got {text!r} twice")
    return templates


def _tree_dimension(calls: Sequence[Call] | Any) -> Tree | None:
    """Room for every static tree that may be asked for."""
    found = [
        dimension
        for call in calls
        for dimension in searched(call).values()
        if isinstance(dimension, Tree)
    ]
    if not found:
        return None
    most = max(dimension.nodes.high for dimension in found)
    deepest = max(dimension.depth.high for dimension in found)
    return Tree((), Whole(1, most), Whole(1, deepest))


def _check_templates(prepared: Sweep) -> None:
    """Builds each policy once: what is given must be what its constructor takes."""
    for text, call in prepared.templates.items():
        with argument("--policies", text):
            try:
                spec = ask(Published(), call, text, prepared.fit).spec()
            except InfeasibleError:
                continue  # others may go together
            prepared.check(get_policy(spec))


def _first(prepared: Sweep) -> list[dict[str, Option]]:
    """What is tried before anything else: what was published, and the best of static trees."""
    first = published(prepared.templates, prepared.fit)
    if prepared.trees is None:
        return first
    best = prepared.trees.best.paths
    for text, call in prepared.templates.items():
        for name, dimension in searched(call).items():
            if isinstance(dimension, Tree):
                parameters: dict[str, Option] = {f"{text}.{name}": FITTED}
                parameters[f"{text}.{name}.nodes"] = len(best)
                parameters[f"{text}.{name}.depth"] = len(best[-1])
                if len(prepared.templates) > 1:
                    parameters[POLICY] = text
                first.append(parameters)
    return first


@contextmanager
def _storage_errors(settings: Settings) -> Iterator[None]:
    """Blames a study that cannot be reached on its storage."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    must = "an Optuna storage URL or journal:FILE that can be reached"
    with argument("--storage", settings.storage, must, (StorageInternalError, SQLAlchemyError)):
        yield


def _open(prepared: Sweep) -> Study:
    settings = prepared.settings
    must = "an Optuna storage URL or journal:FILE that can be reached"
    with argument("--storage", settings.storage, must):
        storage = studies.open_storage(settings.storage, prepared.folder.path)
        optuna.get_all_study_names(storage)  # a journal is read here for the first time
    with argument("--study", settings.study, errors=ValueError):
        return studies.open_study(
            settings.study,
            storage,
            prepared.identity,
            OBJECTIVES[settings.objectives],
            prepared.first,
        )


def _run(prepared: Sweep, study: Study) -> None:
    """Runs trials until there are enough, with a bar on stderr."""
    settings = prepared.settings
    studies.free_lost_trials(study)
    study.sampler = samplers.make_sampler(
        settings.sampler, studies.worker_seed(settings.seed, study)
    )
    pruner = settings.pruner or ("wilcoxon" if settings.is_single else "none")
    study.pruner = samplers.make_pruner(pruner)
    console = Console(stderr=True)
    done = len(studies.finished(study))
    if done:
        console.print(f"{done} of {settings.trials} trials were finished")
    if done >= settings.trials:
        return
    objective = Objective(
        prepared.templates,
        prepared.scorer,
        prepared.fit,
        prepared.check,
        GridAsker if settings.sampler == "grid" else TrialAsker,
        settings.is_single,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("trials", total=settings.trials, completed=done)

        def tell(study: Study, trial: FrozenTrial) -> None:
            progress.update(task, completed=len(studies.finished(study)))
            studies.free_lost_trials(study)

        try:
            study.optimize(
                objective, callbacks=[tell, MaxTrialsCallback(settings.trials, FINISHED)]
            )
        except KeyboardInterrupt:
            kept = len(studies.finished(study))
            console.print(
                f"interrupted: {kept} of {settings.trials} trials are kept; "
                "the same command goes on from there"
            )
            raise


def _found(prepared: Sweep, study: Study) -> dict[str, Any]:
    """What goes into best.json."""
    settings, scorer = prepared.settings, prepared.scorer
    trials = report.tried(study)
    if not trials:
        refusal = report.last_refusal(study)
        raise InputError(
            f"--policies must have a feasible value, none of {len(studies.finished(study))} trials "
            f"found one: {refusal}"
        )
    best = report.fastest(report.whole(trials))
    vanilla = get_policy("vanilla")
    plain = scorer.whole_score(vanilla, scorer.decision_seconds(vanilla)).tokens_per_second
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
        "num_trials": len(studies.finished(study)),
        "families": report.families(trials, list(prepared.templates), prepared.first),
        "models": {name: getattr(prepared.source, name) for name in MODELS},
        "identity": prepared.identity,
        "versions": provenance.versions(),
        "git": provenance.git(),
    }
    if not settings.is_single:
        found["pareto"] = [one.to_json() for one in report.pareto_front(trials)]
    return found


def _draw(prepared: Sweep, study: Study, plain: float) -> None:
    trials, templates = report.tried(study), list(prepared.templates)
    draw: dict[str, Callable[[], Any]] = {
        "history.png": lambda: pictures.history(trials, templates, plain),
        "slices.png": lambda: pictures.slices(
            trials, report.fastest(report.whole(trials)).result.template
        ),
    }
    if not prepared.settings.is_single:
        draw["pareto.png"] = lambda: pictures.pareto(trials, templates, plain)
    for name, figure in draw.items():
        prepared.folder.write(name, png(figure()))


def _show(prepared: Sweep, study: Study, found: Mapping[str, Any], console: Console) -> None:
    trials, plain = report.tried(study), found["plain_tokens_per_second"]
    console.print(report.best_table(trials, plain, prepared.settings.is_single))
    console.print(report.family_table(found["families"], plain))
    for path in sorted(prepared.folder.path.iterdir()):
        if path.suffix in (".json", ".csv", ".parquet", ".png"):
            console.print(str(path), soft_wrap=True, highlight=False)


def _last_line(found: Mapping[str, Any]) -> dict[str, Any]:
    names = ("out", "study", "num_trials", "policy", "tokens_per_second", "speedup")
    return {name: found[name] for name in names}
