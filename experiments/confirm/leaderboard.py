"""From live and replayed records to a leaderboard: who is how fast, and who over-fitted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adaeagle.bench.ranking import FEWEST_PROMPTS, LEVEL, speed_ratio, swap_p_value
from adaeagle.bench.records import PromptRecord
from adaeagle.bench.results import grouped
from adaeagle.bench.runner import BASELINE
from adaeagle.bench.statistics import holm
from experiments.confirm.tuned import Family

WON, OVER_FITTED, NO_DIFFERENCE = "won", "over-fitted", "no significant difference"
AS_PUBLISHED, ALONE, TOO_FEW = "as published", "nothing published", "too few prompts"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What verdicts rest on."""

    live: Sequence[PromptRecord]
    replayed: Sequence[PromptRecord]  # of the same prompts
    oracle: dict[str, Any]  # of the whole split, as in the results of a replay
    by: str  # source or category

    def ratio(self, ours: str, theirs: str) -> dict[str, Any]:
        """Live, on all prompts."""
        return speed_ratio(self.live, ours, theirs)


def leaderboard(families: Sequence[Family], evidence: Evidence) -> list[dict[str, Any]]:
    """One entry a family, the fastest live first."""
    entries = [_entry(family, evidence) for family in families]
    tested = [entry for entry in entries if entry["verdict"] is None]
    adjusted = holm([entry["gain"]["p_value"] for entry in tested])
    for entry, p_value in zip(tested, adjusted, strict=True):
        entry["gain"]["p_adjusted"] = p_value
        if p_value >= LEVEL:
            entry["verdict"] = NO_DIFFERENCE
        else:
            entry["verdict"] = WON if entry["gain"]["live"] > 1 else OVER_FITTED
    return sorted(entries, key=lambda entry: -entry["tuned"]["speedup"])


def references(evidence: Evidence) -> list[dict[str, Any]]:
    """The best fixed drafts of the tune split, which headroom is counted from."""
    found = []
    for name, family in evidence.oracle["families"].items():
        live = evidence.ratio(family["baseline"], BASELINE)
        found.append(
            {
                "family": name,
                "policy": family["baseline"],
                "speedup": live["ratio"],
                "speedup_ci95": live["ci95"],
                "headroom": family["dp"] / family["fixed"] - 1,
            }
        )
    return found


def _entry(family: Family, evidence: Evidence) -> dict[str, Any]:
    tuned, published = family.tuned, family.published
    tasks = grouped(evidence.live, evidence.by)
    return {
        "family": family.name,
        "num_trials": family.num_trials,
        "tuned": _arm(tuned, evidence),
        "published": None if published is None else _arm(published, evidence),
        **_gain(family, evidence),
        "headroom": _headroom(tuned, evidence),
        "tasks": {task: _task(family, own) for task, own in tasks.items()},
    }


def _arm(policy: str, evidence: Evidence) -> dict[str, Any]:
    """A policy against plain decoding: live with its interval, and as it was replayed."""
    live = evidence.ratio(policy, BASELINE)
    arms = [record.arms[policy] for record in evidence.live]
    rounds = sum(len(arm.num_emitted) for arm in arms)
    replayed = speed_ratio(evidence.replayed, policy, BASELINE)["ratio"]
    return {
        "policy": policy,
        "tokens_per_second": sum(arm.num_tokens for arm in arms) / sum(arm.seconds for arm in arms),
        "tokens_per_round": sum(sum(arm.num_emitted) for arm in arms) / max(1, rounds),
        "speedup": live["ratio"],
        "speedup_ci95": live["ci95"],
        "replayed_speedup": replayed,
        "replayed_over_live": replayed / live["ratio"],
    }


def _gain(family: Family, evidence: Evidence) -> dict[str, Any]:
    """Tuned over published: on the tune split and the test split in replay, and live.

    The verdict is None where it rests on what all families come to.
    """
    if family.published is None:
        return {"gain": None, "verdict": ALONE}
    assert family.published_speed is not None
    live = evidence.ratio(family.tuned, family.published)
    gain = {
        "live": live["ratio"],
        "live_ci95": live["ci95"],
        "p_value": swap_p_value(evidence.live, family.tuned, family.published),
        "p_adjusted": None,
        "replayed": speed_ratio(evidence.replayed, family.tuned, family.published)["ratio"],
        "replayed_tune": family.tuned_speed / family.published_speed,
    }
    verdict = TOO_FEW if len(evidence.live) < FEWEST_PROMPTS else None
    return {"gain": gain, "verdict": AS_PUBLISHED if family.tuned == family.published else verdict}


def _headroom(policy: str, evidence: Evidence) -> dict[str, Any]:
    """The share of what foresight would win over the best fixed draft of the policy's shape.

    Live there is no foresight: what the policy wins live is held against what it would win in
    replay.
    """
    oracle = evidence.oracle
    name = oracle["family_of"][policy]
    family = oracle["families"][name]
    over = evidence.ratio(policy, family["baseline"])
    possible = family["dp"] / family["fixed"] - 1
    return {
        "family": name,
        "best_fixed": family["baseline"],
        "over_best_fixed": over["ratio"],
        "over_best_fixed_ci95": over["ci95"],
        "recovered_live": (over["ratio"] - 1) / possible if possible > 0 else None,
        "recovered_replayed": oracle["recovered"][policy],
    }


def _task(family: Family, records: Sequence[PromptRecord]) -> dict[str, Any]:
    tuned, published = family.tuned, family.published
    others: dict[str, Any]
    if published is None:
        others = {"published": None, "gain": None}
    else:
        others = {
            "published": speed_ratio(records, published, BASELINE),
            "gain": speed_ratio(records, tuned, published),
        }
    return {
        "num_prompts": len(records),
        "tuned": speed_ratio(records, tuned, BASELINE),
        **others,
    }


def replay_sentence(entries: Sequence[dict[str, Any]]) -> str:
    """How far replayed speed-ups were from those measured live."""
    arms = {
        entry[kind]["policy"]: entry[kind]
        for entry in entries
        for kind in ("published", "tuned")
        if entry[kind] is not None
    }
    worst = max(arms.values(), key=lambda arm: abs(math.log(arm["replayed_over_live"])))
    off = [math.log(arm["replayed_over_live"]) for arm in arms.values()]
    mean = round(math.exp(sum(off) / len(off)) - 1, 2) + 0.0  # no negative zero
    spread = math.exp(sum(map(abs, off)) / len(off)) - 1
    return (
        f"Replay was off by {spread:.0%} on average ({mean:+.0%} with its sign), at most by "
        f"{abs(worst['replayed_over_live'] - 1):.0%}: {worst['policy']} came out "
        f"{worst['replayed_speedup']:.2f}x replayed, {worst['speedup']:.2f}x live."
    )
