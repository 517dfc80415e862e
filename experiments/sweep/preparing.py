"""A sweep from its settings to where it can begin: every setting checked."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from optuna.study import StudyDirection
from rich.console import Console

from adaeagle.bench.run_folder import RunFolder
from adaeagle.data.splits import TUNE
from adaeagle.policy import Policy
from adaeagle.registry import get_policy, names
from adaeagle.search_space import Int, Tree
from adaeagle.spec import Call, Fixed
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.manifest import Manifest
from experiments.errors import InputError, argument, reason
from experiments.runs.replay import load_cost, load_trace, open_trace
from experiments.runs.settings import open_folder
from experiments.sweep import samplers
from experiments.sweep.scoring import Scorer
from experiments.sweep.studies import without_secrets
from experiments.sweep.suggesting import (
    FITTED,
    TEMPLATE,
    DefaultSuggester,
    InfeasibleError,
    Option,
    SearchContext,
    published,
    suggest_call,
)
from experiments.sweep.template import has_gap, is_rule, parse, searched
from experiments.sweep.trees import FittedTrees

SECONDS, SPEED_AND_NODES = "seconds", "speed-and-nodes"
OBJECTIVES = {
    SECONDS: {"seconds of all prompts": StudyDirection.MINIMIZE},
    SPEED_AND_NODES: {
        "tokens per second": StudyDirection.MAXIMIZE,
        "verified nodes per token": StudyDirection.MINIMIZE,
    },
}
"""Names and directions of the metrics of a study."""
POLICIES = ("chain", "chain(stop=?)", "static_tree", "eagle2")
GRID = "grid"


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """Settings of a sweep."""

    trace: Path
    policies: Sequence[str] = POLICIES
    cost: Path | None = None
    trials: int = 200
    seconds: float | None = None  # after which no other trial is begun
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
    """A sweep ready to run."""

    settings: SweepSettings
    templates: dict[str, Call]
    models: Manifest  # says which the trace was recorded with
    scorer: Scorer
    trees: FittedTrees | None
    context: SearchContext
    published: list[dict[str, Option]]  # parameters of trials; they are run before any other
    first: list[dict[str, Option]]  # and so are these: what was published, and fitted trees
    identity: dict[str, Any]  # what must be equal for trials to be of one study
    folder: RunFolder

    def check(self, policy: Policy) -> None:
        """Refuses a policy that was made for other models than those of the trace."""
        _check_models(policy, self.models, self.scorer)


def prepare(settings: SweepSettings) -> Sweep:
    """Checks settings and reads the texts of the tune split.

    Raises:
        InputError: a setting cannot be used.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    _check_options(settings)
    templates = _parse(settings.policies)
    source = open_trace(settings.trace)
    cost, _ = load_cost(settings.cost, source)
    trace = load_trace(source, TUNE, None if settings.strict else settings.device or "")
    scorer = Scorer(trace, cost)
    room = _room_for_trees(templates.values())
    trees = None if room is None else FittedTrees(trace, cost, room)
    rules = _usable_rules(templates.values(), source.manifest, scorer)
    context = SearchContext(rules) if trees is None else SearchContext(rules, trees.paths)
    _check_templates(templates, context, source.manifest, scorer)
    identity = {
        "trace": source.manifest.digest,
        "num_texts": len(trace.texts),
        "cost": sha256(json.dumps(cost.to_json(), sort_keys=True).encode()).hexdigest(),
        "policies": list(templates),
        "rules": rules,
        "objectives": settings.objectives,
        "grid": settings.sampler == GRID,
        "strict": settings.strict,
        "files": {text: digest for call in templates.values() for text, digest in _files(call)},
    }
    known = published(templates, context)
    first = [] if settings.sampler == GRID else [*known, *_fitted(templates, trees)]
    folder = _folder(settings, identity, source)
    return Sweep(
        settings, templates, source.manifest, scorer, trees, context, known, first, identity, folder
    )


def _folder(settings: SweepSettings, identity: dict[str, Any], source: TraceFolder) -> RunFolder:
    config = {
        "study": settings.study,
        "storage": settings.storage and without_secrets(settings.storage),
        "trace": str(source.path),
        "target": source.manifest.target,
        "drafter": source.manifest.drafter,
    }
    whole = {"config": config, "identity": identity}
    return open_folder("sweep", settings.out, whole, is_shared=True)


def _files(call: Call) -> Iterator[tuple[str, str]]:
    """The files and folders that a template names, and digests of what is in them."""
    for _, slot in call.arguments:
        if isinstance(slot, Call):
            yield from _files(slot)
        elif isinstance(slot, Fixed) and isinstance(slot.value, str):
            path = Path(slot.value)
            found = sorted(path.rglob("*")) if path.is_dir() else [path]
            content = [each.read_bytes() for each in found if each.is_file()]
            if content:
                yield slot.value, sha256(b"".join(content)).hexdigest()


def _check_options(settings: SweepSettings) -> None:
    if settings.objectives not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise InputError(f"--objectives must be one of {known}, got {settings.objectives!r}")
    with argument("--sampler", settings.sampler):
        samplers.make_sampler(settings.sampler, settings.seed)
    if settings.seconds is not None and settings.seconds <= 0:
        raise InputError(f"--seconds must be > 0, got {settings.seconds}")
    if settings.pruner is not None:
        with argument("--pruner", settings.pruner):
            samplers.make_pruner(settings.pruner)
    if settings.is_single:
        return
    for option, value, one in (
        ("--sampler", settings.sampler, samplers.ONE_OBJECTIVE),
        ("--pruner", settings.pruner, ("wilcoxon",)),
    ):
        if value in one:
            raise InputError(f"{option} {value} must have one objective, got {settings.objectives}")


def _parse(policies: Sequence[str]) -> dict[str, Call]:
    templates: dict[str, Call] = {}
    for text in policies:
        with argument("--policies", text):
            call = parse(text)
            if templates.setdefault(text.strip(), call) is not call:
                raise ValueError(f"templates must differ, got {text!r} twice")
    return templates


def _room_for_trees(calls: Iterable[Call]) -> Tree | None:
    """As large and deep as any static tree that may be asked for."""
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
    return Tree((), Int(1, most), Int(1, deepest))


def _usable_rules(calls: Iterable[Call], models: Manifest, scorer: Scorer) -> list[str]:
    """What a ? stands for: the rules that can be built, and run on these models."""
    if not any(has_gap(call) for call in calls):
        return []
    rules = []
    for name in names():
        try:
            if is_rule(name):
                _check_models(get_policy(name), models, scorer)
                rules.append(name)
        except (ValueError, OSError, ImportError) as error:
            line = f"? leaves out {name}: {reason(error)}"
            Console(stderr=True, markup=False).print(line, soft_wrap=True)
    return rules


def _check_templates(
    templates: dict[str, Call], context: SearchContext, models: Manifest, scorer: Scorer
) -> None:
    """Builds each policy once: what is given must be what its constructor takes."""
    for text, call in templates.items():
        with argument("--policies", text):
            try:
                spec = suggest_call(DefaultSuggester(), call, text, context).spec()
            except InfeasibleError:
                continue  # other values may go together
            _check_models(get_policy(spec), models, scorer)


def _check_models(policy: Policy, models: Manifest, scorer: Scorer) -> None:
    """Refuses a policy that was made for other models, or reads what the trace does not hold."""
    feature_size = scorer.trace.texts[0].features.shape[1]
    policy.check(lambda: models.models(feature_size))
    scorer.trace.proposer(torch.arange(1), policy)


def _fitted(templates: dict[str, Call], trees: FittedTrees | None) -> list[dict[str, Option]]:
    """The best of all static trees."""
    if trees is None:
        return []
    first: list[dict[str, Option]] = []
    best = trees.best.paths
    for text, call in templates.items():
        for name, dimension in searched(call).items():
            if isinstance(dimension, Tree):
                parameters: dict[str, Option] = {} if len(templates) == 1 else {TEMPLATE: text}
                parameters[f"{text}.{name}"] = FITTED
                parameters[f"{text}.{name}.nodes"] = len(best)
                parameters[f"{text}.{name}.depth"] = len(best[-1])
                first.append(parameters)
    return first
