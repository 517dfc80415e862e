"""From live and replayed records to a leaderboard: who is how fast, and who over-fitted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaeagle.bench.records import PromptRecord
from adaeagle.bench.results import grouped
from adaeagle.bench.runner import BASELINE
from adaeagle.bench.statistics import bootstrap_ratio
from experiments.confirm.tuned import Family

WON, OVER_FITTED, NO_DIFFERENCE = "won", "over-fitted", "no significant difference"
AS_PUBLISHED, ALONE, TOO_FEW = "as published", "nothing published", "too few prompts"
FEWEST_PROMPTS = 6
"""For a verdict: of so many, all slower has a chance of 1 in 64."""
LEVEL = 0.05
NUM_SWAPS = 10_000


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


def speed_ratio(records: Sequence[PromptRecord], ours: str, theirs: str) -> dict[str, Any]:
    """Tokens a second of one policy over those of another on the same prompts.

    Returns:
        `ratio`, of totals, and `ci95`, a bootstrap over prompts (None where there is but one).
    """
    pairs = [
        [(record.arms[name].num_tokens, record.arms[name].seconds) for record in records]
        for name in (ours, theirs)
    ]
    (our_tokens, our_seconds), (their_tokens, their_seconds) = (
        map(sum, zip(*arm, strict=True)) for arm in pairs
    )
    value = (our_tokens / our_seconds) / (their_tokens / their_seconds)
    return {"ratio": value, "ci95": bootstrap_ratio(*pairs)}


def swap_p_value(records: Sequence[PromptRecord], ours: str, theirs: str) -> float:
    """How often two policies that do not differ would be as far apart, two-sided.

    In each draw the two are exchanged on every prompt with a chance of one half.
    """
    arms = np.array(
        [
            [(record.arms[name].num_tokens, record.arms[name].seconds) for name in (ours, theirs)]
            for record in records
        ]
    )  # [prompts, policies, tokens and seconds]
    if len(records) <= math.log2(NUM_SWAPS):  # every way there is
        ways = np.arange(2 ** len(records))[:, None]
        swapped = (ways >> np.arange(len(records))) & 1
    else:
        swapped = np.random.default_rng(0).integers(2, size=(NUM_SWAPS, len(records)))
        swapped[0] = 0  # the way they are
    rows = np.arange(len(records))
    first, second = (arms[rows, side].sum(1) for side in (swapped, 1 - swapped))
    apart = np.abs(np.log(first[:, 0] / first[:, 1] * second[:, 1] / second[:, 0]))
    return float((apart >= apart[0] - 1e-12).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons made at once, by Holm's correction, in their order."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = worst
    return adjusted


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
