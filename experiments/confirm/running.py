"""A confirmation from its settings to its folder.

Question: do the settings that sweeps found on recorded texts of the tune split win live, on prompts
of the test split, against those that were published, and by as much as replay says?
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaeagle.bench import provenance
from adaeagle.bench.ranking import FEWEST_PROMPTS
from adaeagle.bench.records import PromptRecord
from adaeagle.bench.run_folder import RunFolder
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Prompt, digest, grouping, read_prompts, spread
from adaeagle.data.splits import TEST
from adaeagle.trace.folder import TraceFolder
from experiments.confirm.leaderboard import (
    OVER_FITTED,
    Evidence,
    leaderboard,
    references,
    replay_sentence,
)
from experiments.confirm.page import Page, render
from experiments.confirm.tuned import Tuned, read_sweeps
from experiments.errors import InputError, argument
from experiments.report.finished import read_run
from experiments.report.pages import cost_note, machine
from experiments.runs import compare as comparison
from experiments.runs import replay as replaying
from experiments.runs.models import ModelOptions
from experiments.runs.settings import open_folder

PROMPTS = "prompts.jsonl"
PAGE = "confirm.html"


@dataclass(frozen=True, slots=True)
class ConfirmSettings:
    """Settings of a confirmation."""

    sweeps: Sequence[Path]
    trace: Path | None = None  # None: where the sweeps read it
    limit: int | None = None  # prompts
    seconds: float | None = None  # in which to stay, at the price of prompts
    device: str | None = None
    threads: int | None = None  # None: as many as the cost table was measured with
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A confirmation ready to run."""

    settings: ConfirmSettings
    tuned: Tuned
    trace: TraceFolder
    prompts: list[Prompt]  # of the test split, each task in turn
    threads: int | None
    folder: RunFolder


@dataclass(frozen=True, slots=True)
class ConfirmResult:
    """What a confirmation measured and where it is written."""

    results: dict[str, Any]  # `results.json`
    files: list[Path]

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        return summary(self.results)


def confirm(settings: ConfirmSettings) -> ConfirmResult:
    """Runs a confirmation, or the rest of one, and writes its folder.

    Raises:
        InputError: a setting cannot be used.
    """
    began = time.monotonic()
    ready = _prepare(settings)
    replayed, replay_results = _replayed(ready)
    baselines = [family["baseline"] for family in replay_results["oracle"]["families"].values()]
    arms = list(dict.fromkeys([*ready.tuned.policies, *baselines]))
    left = None if settings.seconds is None else settings.seconds + began - time.monotonic()
    live, measured = _live(ready, arms, left)
    found = _found(ready, live, replayed, replay_results, measured)
    with argument("--out", str(ready.folder.path), "a folder that can be written", OSError):
        files = [
            ready.folder.write("results.json", json.dumps(found, indent=1) + "\n"),
            ready.folder.write(PAGE, render(Page(found))),
        ]
    return ConfirmResult(found, files)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """What a script wants first of the results of a confirmation or a study."""
    names = ("out", "num_prompts", "num_over_fitted", "num_divergences", "notes")
    shown = [
        {
            "family": entry["family"],
            "policy": entry["tuned"]["policy"],
            "speedup": entry["tuned"]["speedup"],
            "speedup_ci95": entry["tuned"]["speedup_ci95"],
            "gain": None if entry["gain"] is None else entry["gain"]["live"],
            "gain_ci95": None if entry["gain"] is None else entry["gain"]["live_ci95"],
            "verdict": entry["verdict"],
        }
        for entry in found["families"]
    ]
    return {**{name: found[name] for name in names}, "families": shown}


def _prepare(settings: ConfirmSettings) -> Confirmation:
    if settings.seconds is not None and settings.seconds <= 0:
        raise InputError(f"--seconds must be > 0, got {settings.seconds}")
    tuned = read_sweeps(settings.sweeps)
    path = settings.trace or tuned.trace
    trace = replaying.open_trace(path)
    if trace.manifest.digest != tuned.trace_sha256:
        raise InputError(f"--trace must be the trace of the sweeps, got {str(path)!r}: another one")
    with argument("--trace", str(path), errors=(OSError, ValueError)):
        prompts = test_prompts(trace)
    prompts = spread(prompts, settings.limit or len(prompts))
    with argument("SWEEP", str(tuned.cost.parent), errors=(OSError, ValueError)):
        about = CostModel.load(tuned.cost).about
    threads = settings.threads or about.get("config", {}).get("threads")
    identity = {
        "config": {
            "trace": str(path),
            "families": [asdict(family) for family in tuned.families],
            "limit": settings.limit,
            "device": settings.device,
            "threads": threads,
        },
        "trace_sha256": tuned.trace_sha256,
        "cost_sha256": tuned.cost_sha256,
        "prompts_sha256": digest(prompts),
    }
    folder = open_folder("confirm", settings.out, identity)
    lines = (json.dumps(asdict(prompt), ensure_ascii=False) + "\n" for prompt in prompts)
    with argument("--out", str(folder.path), "a folder that can be written", OSError):
        folder.write(PROMPTS, "".join(lines))
    return Confirmation(settings, tuned, trace, prompts, threads, folder)


def test_prompts(trace: TraceFolder) -> list[Prompt]:
    """The prompts of the test split, as far as they are recorded, in the order of the trace.

    Raises:
        OSError: the prompts are not where they were.
        ValueError: they are others now, or none of the test split is recorded.
    """
    manifest = trace.manifest
    known = {prompt.id: prompt for prompt in read_prompts(manifest.prompts)}
    chosen = [known[prompt_id] for prompt_id in manifest.prompt_ids if prompt_id in known]
    if digest(chosen) != manifest.prompts_sha256:
        raise ValueError(f"its prompts, {manifest.prompts}, must be those that were recorded")
    absent = set(trace.missing)
    ids = {
        prompt_id
        for number, shard in enumerate(manifest.shards)
        if shard.split == TEST and number not in absent
        for prompt_id in shard.prompt_ids
    }
    if not ids:
        raise ValueError("it must hold prompts of the test split, got none")
    return [prompt for prompt in chosen if prompt.id in ids]


def _replayed(ready: Confirmation) -> tuple[list[PromptRecord], dict[str, Any]]:
    """The test split replayed, with the oracles of the families; once for a confirmation."""
    path = ready.folder.path / "replay"
    if (path / "results.json").is_file():
        run = read_run(path)
        return run.records, run.results
    settings = replaying.ReplaySettings(
        trace=ready.trace.path,
        policies=ready.tuned.policies,
        cost=ready.tuned.cost,
        split=TEST,
        device=ready.settings.device,
        threads=ready.threads,
        out=path,
    )
    return replaying.replay_policies(settings)


def _live(
    ready: Confirmation, policies: Sequence[str], seconds: float | None
) -> tuple[list[PromptRecord], dict[str, Any]]:
    """All of them in turns, prompt by prompt."""
    manifest = ready.trace.manifest
    settings = comparison.CompareSettings(
        models=ModelOptions(  # those that the trace was recorded with
            target=manifest.target,
            drafter=manifest.drafter,
            device=ready.settings.device,
            dtype=manifest.dtype,
            threads=ready.threads,
        ),
        policies=policies,
        prompts=str(ready.folder.path / PROMPTS),
        max_new_tokens=manifest.max_new_tokens,
        seconds=seconds,
        out=ready.folder.path / "live",
    )
    return comparison.measure(settings)


def _found(
    ready: Confirmation,
    live: list[PromptRecord],
    replayed: list[PromptRecord],
    replay_results: dict[str, Any],
    measured: dict[str, Any],
) -> dict[str, Any]:
    by_id = {record.id: record for record in replayed}
    recovered = {arm["policy"]: arm["headroom_recovered"] for arm in replay_results["arms"]}
    evidence = Evidence(
        live,
        [by_id[record.id] for record in live],
        {**replay_results["oracle"], "recovered": recovered},
        grouping(live),
    )
    entries = leaderboard(ready.tuned.families, evidence)
    found = {
        "out": str(ready.folder.path),
        "target": ready.trace.manifest.target,
        "drafter": ready.trace.manifest.drafter,
        "num_prompts": len(live),
        "num_test_prompts": len(ready.prompts),
        "max_new_tokens": ready.trace.manifest.max_new_tokens,
        "by": evidence.by,
        "families": entries,
        "best_fixed": references(evidence),
        "num_over_fitted": sum(entry["verdict"] == OVER_FITTED for entry in entries),
        "num_divergences": sum(len(record.divergences) for record in live),
        "num_missing": sum(replay_results["num_missing"].values()),
        "cost_about": replay_results["config"]["cost_about"],
        "sweeps": [str(path) for path in ready.tuned.sweeps],
        "trace": str(ready.trace.path),
        "trace_sha256": ready.tuned.trace_sha256,
        "config": measured["config"],
        "prompts_sha256": measured["prompts_sha256"],
        "hardware": measured["hardware"],
        "versions": measured["versions"],
        "git": provenance.git(),
    }
    return {**found, "notes": notes(found)}


def notes(found: dict[str, Any]) -> list[str]:
    """What must be told beside the numbers, most telling first."""
    families, parted = found["families"], found["num_divergences"]
    lines = [replay_sentence(families), *cost_note(found["cost_about"])]
    if found["num_prompts"] < found["num_test_prompts"]:
        lines.append(
            f"Time was up after {found['num_prompts']} of {found['num_test_prompts']} prompts of "
            "the test split; replayed speed-ups are of the same prompts, oracles of all."
        )
    if found["num_prompts"] < FEWEST_PROMPTS:
        lines.append(f"Fewer than {FEWEST_PROMPTS} prompts allow no verdict on what tuning won.")
    if found["num_over_fitted"]:
        lines.append(
            f"{found['num_over_fitted']} of {len(families)} families over-fitted: live, "
            "the setting that was the best on the tune split is slower than the published one."
        )
    lines.append(
        f"{parted} answers part from plain decoding's: see divergences in live/results.json."
        if parted
        else "All answers equal plain decoding's, token for token."
    )
    theirs, ours = found["cost_about"].get("hardware"), found["hardware"]
    if theirs is not None and theirs.get("cpu") != ours.get("cpu"):
        lines.append(f"The cost table was measured on another machine: {machine(theirs)}.")
    return lines
