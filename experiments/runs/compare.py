"""A comparison of policies from its settings to its folder: what `compare` and `demo` run.

Question: how much faster than plain decoding is each policy, and where do its rounds spend time?
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from adaeagle.bench import provenance
from adaeagle.bench.ranking import ranking
from adaeagle.bench.records import PromptRecord
from adaeagle.bench.results import results
from adaeagle.bench.run_folder import RunFolder
from adaeagle.bench.runner import Bench
from adaeagle.data.prompts import Prompt, grouping
from adaeagle.drafters.identify import identify
from adaeagle.policy import Policy
from adaeagle.registry import get_policy
from experiments.errors import InputError, argument
from experiments.options import SamplingOptions
from experiments.runs.calibration import CalibrationRecord, Listener
from experiments.runs.calibration import results as calibration_results
from experiments.runs.models import ModelOptions, load_models, make_sampling
from experiments.runs.settings import (
    best_fixed,
    check_policies,
    check_prompts,
    finish,
    load_prompts,
    make_policies,
    open_folder,
    run_identity,
)
from experiments.views.acceptance_plots import calibration
from experiments.views.plot_style import png
from experiments.views.plots import draw_all
from policies.vanilla import Vanilla

POLICIES = (
    "vanilla",
    "chain(length=4)",
    "chain(length=6)",
    "chain(length=12, stop=confidence(threshold=0.4))",
    "chain(length=14, stop=cumulative(log_threshold=-3.0))",
    "static_tree(tree='eagle1')",
    "eagle2(depth=5, width=3, nodes=8)",
    "eagle2(depth=6, width=10, nodes=59)",
)
"""Fixed chains, chains that stop themselves, EAGLE's static tree, EAGLE-2 small and full."""

DEMO_THREADS = 1
"""Operations as small as this model's are slower on two threads than on one."""

LEARNED = ("ldlp", "cost_aware")
"""AdaEAGLE's own rule and ours, with the bundled model's predictors and cost table."""

DEMO_NUM_PROMPTS = 24
DEMO_MAX_NEW_TOKENS = 128

SHOWN = ("policy", "tokens_per_second", "speedup", "speedup_ci95", "tokens_per_round")


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """Settings of a comparison."""

    models: ModelOptions = field(default_factory=ModelOptions)
    policies: Sequence[str] = POLICIES
    prompts: str = "mini"
    limit: int | None = None
    max_new_tokens: int = 256
    skip_long: bool = False
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    baseline: str | None = None  # None: the fastest policy whose draft is fixed
    calibration: bool = False
    seconds: float | None = None  # in which to stay, at the price of prompts
    out: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison ready to run: its settings have been checked."""

    bench: Bench
    prompts: list[Prompt]
    folder: RunFolder
    identity: dict[str, Any]  # what must be equal for a run to be resumed


@dataclass(frozen=True, slots=True)
class CompareResult:
    """What a comparison measured and where it is written."""

    records: list[PromptRecord]
    results: dict[str, Any]  # `results.json`
    group_by: str  # the field of a prompt that groups are made by
    compares_texts: bool
    is_coupled: bool
    out: Path
    files: list[Path]

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        prompts = self.results["per_prompt"]
        return {
            "out": str(self.out),
            "num_prompts": len(prompts),
            "num_divergences": sum(len(prompt["divergences"]) for prompt in prompts),
            "verdict": self.results["ranking"]["verdict"],
            "arms": [{key: arm[key] for key in SHOWN} for arm in self.results["arms"]],
        }


def compare(settings: CompareSettings, *, anew: bool = False) -> CompareResult:
    """Runs a comparison, or the rest of an interrupted one, and writes its folder.

    Args:
        settings: what to compare.
        anew: begin again where the folder holds another run or a finished one.

    Raises:
        InputError: a setting cannot be used.
    """
    anew = anew or settings.overwrite
    comparison = _prepare(settings, anew)
    records, found = _finish(comparison, settings)
    folder, group_by = comparison.folder, grouping(comparison.prompts)
    with argument("--out", str(folder.path), "a folder that can be written", OSError):
        files = [folder.path / "results.json", *draw_all(records, group_by, folder)]
    if settings.calibration:
        files += _calibrate(comparison, anew)
    bench = comparison.bench
    is_coupled = bench.sampling.is_coupled
    return CompareResult(
        records, found, group_by, bench.compares_texts, is_coupled, folder.path, files
    )


def measure(settings: CompareSettings) -> tuple[list[PromptRecord], dict[str, Any]]:
    """The same without tables and pictures: what was measured, and what is in `results.json`."""
    return _finish(_prepare(settings, anew=False), settings)


def _prepare(settings: CompareSettings, anew: bool) -> Comparison:
    chosen_sampling = make_sampling(settings.sampling)
    arms = make_policies(settings.policies, settings.baseline)
    prompts = load_prompts(settings.prompts, settings.limit)
    drafts = bool(_drafting(arms))
    if settings.calibration and not drafts:
        raise InputError("--calibration needs a policy that drafts, got vanilla alone")
    models = load_models(settings.models, needs_drafter=drafts, is_greedy=chosen_sampling.is_greedy)
    check_policies(arms, partial(identify, models.target, models.drafter))
    prompts = check_prompts(models.target, prompts, settings.prompts, skip_long=settings.skip_long)
    config = {
        **models.config,
        "policies": list(arms),
        "prompts": settings.prompts,
        "limit": settings.limit,
        "max_new_tokens": settings.max_new_tokens,
        **asdict(settings.sampling),
    }
    identity = run_identity(config, prompts, models.target)
    folder = open_folder("compare", settings.out, identity, anew=anew)
    bench = Bench(models.target, models.drafter, arms, chosen_sampling, settings.max_new_tokens)
    return Comparison(bench, prompts, folder, identity)


def _drafting(arms: dict[str, Policy]) -> list[str]:
    return [name for name, policy in arms.items() if not isinstance(policy, Vanilla)]


def _finish(
    comparison: Comparison, settings: CompareSettings
) -> tuple[list[PromptRecord], dict[str, Any]]:
    folder, policies = comparison.folder, comparison.bench.policies
    records = finish(
        folder,
        PromptRecord,
        len(comparison.prompts),
        lambda finished: _measured(comparison, finished),
        f"prompts under {len(policies)} policies",
        settings.seconds,
    )
    found = results(records, comparison.identity, git=provenance.git())
    found["ranking"] = ranking(records, settings.baseline or best_fixed(policies, records))
    with argument("--out", str(folder.path), "a folder that can be written", OSError):
        folder.write("results.json", json.dumps(found, indent=1) + "\n")
    return records, found


def _measured(comparison: Comparison, finished: Sequence[PromptRecord]) -> Iterator[PromptRecord]:
    bench, prompts = comparison.bench, comparison.prompts
    bench.warm_up(prompts[0])
    yield from bench.run(prompts, finished)


def _calibrate(comparison: Comparison, anew: bool) -> list[Path]:
    """Decodes the prompts once more, untimed, and writes how sure the draft model was when right.

    Policies begin fresh; one that learns across prompts does so too where it is resumed.
    """
    bench, prompts = comparison.bench, comparison.prompts
    path = comparison.folder.path / "calibration"
    folder = open_folder("calibration", path, comparison.identity, anew=anew)
    names = _drafting(bench.policies)
    fresh = {name: get_policy(name) for name in names}
    listener = Listener(bench.target, bench.drafter, fresh, bench.sampling, bench.max_new_tokens)
    records = finish(
        folder,
        CalibrationRecord,
        len(prompts),
        lambda finished: listener.run(prompts, finished),
        f"calibration, prompts under {len(names)} policies",
    )
    arms = calibration_results(records)
    found = {**comparison.identity, "git": provenance.git(), "arms": arms}
    figure = calibration(arms, list(bench.policies))
    with argument("--out", str(path), "a folder that can be written", OSError):
        return [
            folder.write("results.json", json.dumps(found, indent=1) + "\n"),
            folder.write("calibration.png", png(figure)),
        ]
