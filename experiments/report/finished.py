"""A finished run of `compare` or `replay`, read back and held against itself."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaeagle.bench.records import PromptRecord
from adaeagle.bench.results import ArmResult, summarize
from adaeagle.bench.runner import BASELINE
from experiments.errors import InputError, argument

NEEDED = ("hardware", "versions", "git", "config", "prompts_sha256", "split", "oracle")
NEEDED_OF_REPLAYS = ("trace_sha256", "cost", "cost_about", "strict")
MUST = "the folder of a finished `adaeagle compare` or `adaeagle replay`"
OTHERS = {
    "stages.json": "it is a study, whose page is {0}/report.html",
    "confirm.html": "it is a confirmation, whose page is {0}/confirm.html",
    "best.json": "it is a sweep: see {0}/history.png, or run `adaeagle confirm {0}` for a page",
    "cost.json": "it is a cost table: see {0}/cost.png",
    "acceptance.png": "it is an evaluation of a predictor: see {0}/acceptance.png",
    "lengths.png": "it is an evaluation of a predictor: see {0}/lengths.png",
    "learning_curve.png": "it is a training: see {0}/learning_curve.png",
    "manifest.json": "it is a trace: run `adaeagle replay {0}` first",
}
"""Folders of other commands by a file that they alone hold, and what to look at instead."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run left in its folder."""

    path: Path
    results: dict[str, Any]  # the whole of results.json
    arms: list[ArmResult]  # its policies
    records: list[PromptRecord]  # its prompts, in order

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.results["config"]
        return found

    @property
    def is_replay(self) -> bool:
        return "trace" in self.config


def read_run(path: Path) -> Finished:
    """Reads a run's folder.

    Raises:
        InputError: there is none, it is not finished, or its results cannot be read.
    """
    for mark, advice in OTHERS.items():
        if (path / mark).is_file():
            raise InputError(f"RUN must be {MUST}, got {str(path)!r}: {advice.format(path)}")
    results = path / "results.json"
    if not results.is_file():
        if not path.is_dir():
            why = "there is no such folder"
        elif (path / "config.json").is_file():
            why = "it holds no results.json: the run's own command finishes it"
        else:
            why = "it holds no run"
        raise InputError(f"RUN must be {MUST}, got {str(path)!r}: {why}")
    with argument("RUN", str(path), MUST, (OSError, ValueError)):
        return _read(path, json.loads(results.read_bytes()))


def _read(path: Path, raw: Any) -> Finished:
    try:
        arms = [ArmResult(**arm) for arm in raw["arms"]]
        records = [
            PromptRecord.from_json({**prompt, "policy_states": ""}) for prompt in raw["per_prompt"]
        ]
        _need(raw, NEEDED)
        if "trace" in raw["config"]:
            _need(raw["config"], NEEDED_OF_REPLAYS)
        is_whole = raw["baseline"] == BASELINE and _agree(arms, summarize(records))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"its results.json is of another command or version: {type(error).__name__} {error}"
        ) from error
    if not is_whole:
        raise ValueError("its results.json contradicts itself: arms are not the sum of per_prompt")
    return Finished(path, raw, arms, records)


def _need(found: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if name not in found:
            raise KeyError(name)


def _agree(arms: list[ArmResult], totals: list[ArmResult]) -> bool:
    """Whether what is said of policies is what their prompts come to."""
    return [arm.policy for arm in arms] == [total.policy for total in totals] and all(
        math.isclose(getattr(arm, name), getattr(total, name), rel_tol=1e-9)
        for arm, total in zip(arms, totals, strict=True)
        for name in ("num_tokens", "seconds", "speedup", "tokens_per_round", "verified_nodes")
    )
