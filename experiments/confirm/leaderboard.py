"""From live and replayed records to a leaderboard: who is how fast, and who over-fitted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adaeagle.bench.records import PromptRecord
from adaeagle.bench.results import grouped
from adaeagle.bench.runner import BASELINE
from adaeagle.bench.statistics import bootstrap_ratio
from experiments.confirm.tuned import Family

WON, AS_PUBLISHED, OVER_FITTED, ALONE = "won", "as published", "over-fitted", "nothing published"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Tokens a second of one policy over those of another on the same prompts."""

    value: float
    ci95: tuple[float, float] | None  # a bootstrap over prompts; None: there is but one

    def to_json(self) -> dict[str, Any]:
        return {"ratio": self.value, "ci95": self.ci95}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What verdicts rest on."""

    live: Sequence[PromptRecord]
    replayed: Sequence[PromptRecord]  # of the same prompts
    oracle: dict[str, Any]  # of the whole split, as in the results of a replay
    by: str  # source or category

    def ratio(self, ours: str, theirs: str, group: str | None = None) -> Ratio:
        """Live, on all prompts or on those of one task."""
        members = self.live if group is None else grouped(self.live, self.by)[group]
        return speed_ratio(members, ours, theirs)


def speed_ratio(records: Sequence[PromptRecord], ours: str, theirs: str) -> Ratio:
    """The ratio of two policies' totals, and its interval over prompts."""
    pairs = [
        [(record.arms[name].num_tokens, record.arms[name].seconds) for record in records]
        for name in (ours, theirs)
    ]
    (our_tokens, our_seconds), (their_tokens, their_seconds) = (
        map(sum, zip(*arm, strict=True)) for arm in pairs
    )
    value = (our_tokens / our_seconds) / (their_tokens / their_seconds)
    return Ratio(value, bootstrap_ratio(*pairs))


def leaderboard(families: Sequence[Family], evidence: Evidence) -> list[dict[str, Any]]:
    """One entry a family, the fastest live first."""
    entries = [_entry(family, evidence) for family in families]
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
                "speedup": live.value,
                "speedup_ci95": live.ci95,
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
        **_verdict(family, evidence),
        "headroom": _headroom(tuned, evidence),
        "tasks": {task: _task(family, evidence, task, len(own)) for task, own in tasks.items()},
    }


def _arm(policy: str, evidence: Evidence) -> dict[str, Any]:
    """A policy against plain decoding: live with its interval, and as it was replayed."""
    live = evidence.ratio(policy, BASELINE)
    arms = [record.arms[policy] for record in evidence.live]
    rounds = sum(len(arm.num_emitted) for arm in arms)
    replayed = speed_ratio(evidence.replayed, policy, BASELINE).value
    return {
        "policy": policy,
        "tokens_per_second": sum(arm.num_tokens for arm in arms) / sum(arm.seconds for arm in arms),
        "tokens_per_round": sum(sum(arm.num_emitted) for arm in arms) / max(1, rounds),
        "speedup": live.value,
        "speedup_ci95": live.ci95,
        "replayed_speedup": replayed,
        "replayed_over_live": replayed / live.value,
    }


def _verdict(family: Family, evidence: Evidence) -> dict[str, Any]:
    """Tuned over published: on the tune split and the test split in replay, and live."""
    if family.published is None:
        return {"gain": None, "verdict": ALONE, "is_sure": False}
    live = evidence.ratio(family.tuned, family.published)
    replayed = speed_ratio(evidence.replayed, family.tuned, family.published).value
    assert family.published_speed is not None
    gain = {
        "live": live.value,
        "live_ci95": live.ci95,
        "replayed": replayed,
        "replayed_tune": family.tuned_speed / family.published_speed,
    }
    if family.tuned == family.published:
        return {"gain": gain, "verdict": AS_PUBLISHED, "is_sure": True}
    low, high = live.ci95 or (0.0, float("inf"))
    verdict = WON if live.value >= 1 else OVER_FITTED
    return {"gain": gain, "verdict": verdict, "is_sure": low > 1 or high < 1}


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
        "over_best_fixed": over.value,
        "over_best_fixed_ci95": over.ci95,
        "recovered_live": (over.value - 1) / possible if possible > 0 else None,
        "recovered_replayed": oracle["recovered"][policy],
    }


def _task(family: Family, evidence: Evidence, task: str, num_prompts: int) -> dict[str, Any]:
    tuned, published = family.tuned, family.published
    return {
        "num_prompts": num_prompts,
        "tuned": evidence.ratio(tuned, BASELINE, task).to_json(),
        "published": (
            None if published is None else evidence.ratio(published, BASELINE, task).to_json()
        ),
        "gain": None if published is None else evidence.ratio(tuned, published, task).to_json(),
    }
