"""A replay of policies on a trace from its settings to its folder.

Question: what would each policy have made of these texts on the machine of a cost table, and what
share of what perfect foresight would win is that?
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from adaeagle.bench import provenance
from adaeagle.bench.ranking import ranking, tokens_per_second
from adaeagle.bench.records import ArmRecord, PromptRecord
from adaeagle.bench.replayed import arm_records, policy_seconds
from adaeagle.bench.results import results
from adaeagle.bench.run_folder import RunFolder
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import grouping
from adaeagle.data.splits import Split
from adaeagle.drafters.base import Drafter
from adaeagle.policy import Policy
from adaeagle.replay.headroom import (
    Headroom,
    chain_family,
    clairvoyant_speed,
    eagle2_family,
    headroom,
)
from adaeagle.replay.replay import Replayed, replay
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.manifest import Manifest, check_models
from adaeagle.trace.proposer import NotRecordedError
from adaeagle.trace.redrafted import RedraftedTrace
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from experiments.errors import InputError, argument
from experiments.runs.compare import POLICIES
from experiments.runs.models import ModelOptions, load_models
from experiments.runs.settings import best_fixed, check_policies, make_policies, open_folder, origin
from experiments.views.plots import draw_all

SPLITS = ("all", "tune", "test")
COST = "cost.json"
"""The cost table that lies in a trace's folder."""
SHOWN = ("policy", "tokens_per_second", "speedup", "speedup_ci95", "headroom_recovered")


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """Settings of a replay."""

    trace: Path
    policies: Sequence[str] = POLICIES
    drafter: str | None = None
    cost: Path | None = None
    split: str = "all"
    strict: bool = False
    oracle: bool = True
    baseline: str | None = None  # None: the fastest policy whose draft is fixed
    any_cost: bool = False  # whether the cost table may be of other models
    device: str | None = None
    threads: int | None = None
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What replayed policies come to and where it is written."""

    records: list[PromptRecord]
    results: dict[str, Any]  # `results.json`
    group_by: str  # the field of a prompt that groups are made by
    out: Path
    files: list[Path]

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        return {
            "out": str(self.out),
            "num_prompts": len(self.results["per_prompt"]),
            "split": self.results["split"],
            "oracle": self.results["oracle"],
            "cost_quality": self.results["config"]["cost_about"].get("quality"),
            "verdict": self.results["ranking"]["verdict"],
            "arms": [{key: arm[key] for key in SHOWN} for arm in self.results["arms"]],
        }


def run_replay(settings: ReplaySettings) -> ReplayResult:
    """Replays policies and writes the folder.

    Raises:
        InputError: a setting cannot be used, or a node is missing under `strict`.
    """
    records, whole, out = _run(settings)
    group_by = grouping(records)
    with argument("--out", str(out.path), "a folder that can be written", OSError):
        files = [out.path / "results.json", *draw_all(records, group_by, out)]
    return ReplayResult(records, whole, group_by, out.path, files)


def replay_policies(settings: ReplaySettings) -> tuple[list[PromptRecord], dict[str, Any]]:
    """The same without tables and pictures: the records, and what is in `results.json`."""
    records, whole, _ = _run(settings)
    return records, whole


def _run(settings: ReplaySettings) -> tuple[list[PromptRecord], dict[str, Any], RunFolder]:
    """Replays, solves oracles and writes `results.json`."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    arms = make_policies(settings.policies, settings.baseline)
    folder = open_trace(settings.trace)
    cost, cost_path = load_cost(settings.cost, folder, any_models=settings.any_cost)
    if settings.drafter is None:
        device = None if settings.strict else settings.device or ""
        trace = load_trace(folder, settings.split, device)
    else:
        trace = redrafted_trace(folder, settings)
        settings = replace(settings, oracle=False)  # oracles are solved on recorded drafts
    check_policies(arms, partial(folder.manifest.models, trace.texts[0].features.shape[1]))
    config = {
        "target": folder.manifest.target,
        "drafter": settings.drafter or folder.manifest.drafter,
        "trace": str(settings.trace),
        "trace_sha256": folder.manifest.digest,
        "cost": str(cost_path),
        "cost_about": cost.about,
        "policies": list(arms),
        "split": settings.split,
        "strict": settings.strict,
        "oracle": settings.oracle,
    }
    identity: dict[str, Any] = {
        "config": config,
        "prompts_sha256": folder.manifest.prompts_sha256,
        **origin(),
    }
    out = open_folder("replay", settings.out, identity, anew=True)
    records, played = _replay_all(arms, trace, cost)
    found = _headrooms(settings, folder, trace, cost, played)
    arm_family = {name: _family_of(one) for name, one in played.items()}
    oracle = None
    recovered: dict[str, float | None] = {}
    if found:
        oracle = {
            "families": {name: one.to_json() for name, one in found.items()},
            "family_of": arm_family,
            "clairvoyant": clairvoyant_speed(trace, cost),
            "split": settings.split,
        }
        speeds = {name: tokens_per_second(records, name) for name in arms}
        recovered = {
            name: found[arm_family[name]].recovered_by(speeds[name])
            for name in arms
            if arm_family[name] in found
        }
    whole = results(
        records,
        identity,
        git=provenance.git(),
        split=settings.split,
        oracle=oracle,
        recovered=recovered,
    )
    whole["num_missing"] = {name: one.num_missing for name, one in played.items()}
    whole["ranking"] = ranking(records, settings.baseline or best_fixed(arms, records))
    with argument("--out", str(out.path), "a folder that can be written", OSError):
        out.write("results.json", json.dumps(whole, indent=1) + "\n")
    return records, whole, out


def open_trace(path: Path) -> TraceFolder:
    """A recorded trace, whole or not."""
    with argument("TRACE", str(path), errors=(OSError, ValueError)):
        return TraceFolder.open(path)


def load_cost(
    path: Path | None, trace: TraceFolder, *, any_models: bool = False
) -> tuple[CostModel, Path]:
    """The cost table of `--cost`, or the one that lies in the trace's folder.

    Args:
        path: of `--cost`.
        trace: what it is for.
        any_models: whether it may have been measured with other models.

    Raises:
        InputError: it is not there, or of other models.
    """
    chosen = path or trace.path / COST
    if path is None and not chosen.is_file():
        raise InputError(
            f"--cost must be a cost table, as `adaeagle profile` makes one: {chosen} is not there"
        )
    with argument("--cost", str(chosen), errors=(OSError, ValueError)):
        cost = CostModel.load(chosen)
    if not any_models:
        manifest = trace.manifest
        with argument("--cost", str(chosen), errors=ValueError):
            cost.check(manifest.target_weights, manifest.drafter_weights)
    if not (quality := cost.about.get("quality", {"is_good": True}))["is_good"]:
        note = f"{chosen} is not good enough to rely on: {quality['why']}"
        Console(stderr=True).print(note, highlight=False)
    return cost, chosen


def load_trace(folder: TraceFolder, split: str, device: str | None) -> Trace:
    """The texts of a split, and on demand the models that draft what was not recorded.

    Args:
        folder: of the trace.
        split: all, tune or test.
        device: of the models, "" for the default; None: no model is ever loaded.
    """
    texts = _texts(folder, split)
    drafter = None if device is None else model_loader(folder.manifest, device or None)
    with argument("TRACE", str(folder.path), errors=ValueError):
        return Trace(texts, folder.manifest.vocab_size, drafter)


def redrafted_trace(folder: TraceFolder, settings: ReplaySettings) -> RedraftedTrace:
    """The texts of a split, with a drafter in place of the recorded one that looks tokens up.

    A merged drafter's network must be the one that was recorded.
    """
    manifest, spec = folder.manifest, settings.drafter
    assert spec is not None
    options = ModelOptions(manifest.target, spec, settings.device, manifest.dtype)
    models = load_models(options, needs_drafter=True, is_greedy=True)
    drafter = models.drafter
    assert drafter is not None
    texts = _texts(folder, settings.split)
    with argument("--drafter", spec, errors=ValueError):
        network = drafter.parts[0] if drafter.parts else None
        if network is not None:
            check_models(manifest, target=models.target, drafter=network)
        elif drafter.network is not None:
            raise ValueError("it has a network: record a trace and a cost table with it")
        load = None if settings.strict or network is None else lambda: network
        return RedraftedTrace(texts, manifest.vocab_size, drafter, load)


def _texts(folder: TraceFolder, split: str) -> list[RecordedText]:
    if split not in SPLITS:
        raise InputError(f"--split must be one of {', '.join(SPLITS)}, got {split!r}")
    chosen: Split | None = None if split == "all" else "tune" if split == "tune" else "test"
    with argument("TRACE", str(folder.path), errors=(OSError, ValueError)):
        return folder.texts(split=chosen)


def model_loader(manifest: Manifest, device: str | None) -> Callable[[], Drafter]:
    """Loads the very draft model that a trace was recorded with, when it is called."""

    def load() -> Drafter:
        options = ModelOptions(
            target=manifest.target,
            drafter=manifest.drafter,
            device=device,
            dtype=manifest.dtype,
        )
        models = load_models(options, needs_drafter=True, is_greedy=True)
        assert models.drafter is not None
        with argument("TRACE", manifest.target):
            check_models(manifest, target=models.target, drafter=models.drafter)
        return models.drafter

    return load


def _replay_all(
    arms: dict[str, Policy], trace: Trace, cost: CostModel
) -> tuple[list[PromptRecord], dict[str, Replayed]]:
    """Every arm on every text, as the records of a live run."""
    played: dict[str, Replayed] = {}
    by_arm: dict[str, dict[str, ArmRecord]] = {}
    columns = (
        TextColumn("replaying {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(arms))
        for name, policy in arms.items():
            progress.update(task, description=name)
            decides = policy_seconds(policy, trace, cost)
            try:
                played[name] = replay(policy, trace, cost)
            except NotRecordedError as missing:
                raise InputError(f"--strict refuses {name}: {missing}") from None
            by_arm[name] = arm_records(played[name], trace, cost, decides)
            progress.advance(task)
    prompts = {text.prompt_id: text for text in reversed(trace.texts)}  # the first turn of each
    records = [
        PromptRecord(
            id=prompt_id,
            category=prompts[prompt_id].category,
            source=prompts[prompt_id].source,
            num_turns=sum(text.prompt_id == prompt_id for text in trace.texts),
            order=list(arms),
            arms={name: own[prompt_id] for name, own in by_arm.items()},
            divergences=[],
            policy_states="",
        )
        for prompt_id in dict.fromkeys(text.prompt_id for text in trace.texts)
    ]
    return records, played


def _family_of(played: Replayed) -> str:
    """Which family of fixed drafts a policy is held against: the shape it drafts in."""
    return "eagle2" if bool(played.rounds.is_tree.any()) else "chain"


def _headrooms(
    settings: ReplaySettings,
    folder: TraceFolder,
    trace: Trace,
    cost: CostModel,
    played: dict[str, Replayed],
) -> dict[str, Headroom]:
    if not settings.oracle:
        return {}
    families = {"chain": chain_family(), "eagle2": eagle2_family()}
    wanted = {_family_of(one) for one in played.values()}
    tune = None
    device = None if settings.strict else settings.device or ""
    if settings.split == "test":
        tune = load_trace(folder, "tune", device)
    found = {}
    with Console(stderr=True).status("solving oracles"):
        for name in sorted(wanted):
            try:
                found[name] = headroom(name, families[name], trace, cost, tune)
            except NotRecordedError as missing:
                raise InputError(f"--strict refuses the family {name}: {missing}") from None
    return found
