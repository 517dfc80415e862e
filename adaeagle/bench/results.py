"""From per-prompt records to `results.json`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from adaeagle.bench.records import ArmRecord, PromptRecord
from adaeagle.bench.runner import BASELINE
from adaeagle.bench.statistics import (
    acceptance_by_depth,
    bootstrap_ratio,
    conditional_acceptance,
)


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One policy over all prompts. Seconds are totals, prefill included; counts are totals."""

    policy: str
    num_tokens: int
    seconds: float
    tokens_per_second: float
    speedup: float  # tokens per second against the baseline's
    speedup_ci95: tuple[float, float] | None
    tokens_per_round: float  # the prefill's token is no round's
    acceptance_by_depth: list[float]  # joint: of d tokens or more
    conditional_acceptance_by_depth: list[float | None]  # of token d where d - 1 were accepted
    draft_forwards: int
    verified_nodes: int
    prefill_seconds: float
    draft_seconds: float
    verify_seconds: float
    policy_seconds: float
    other_seconds: float
    headroom_recovered: float | None = None  # needs an oracle


def summarize(records: Sequence[PromptRecord]) -> list[ArmResult]:
    """Every arm over the records, against the baseline in the same records."""
    baseline = [record.arms[BASELINE] for record in records]
    return [
        _summarize_arm(name, [record.arms[name] for record in records], baseline)
        for name in records[0].arms
    ]


def _summarize_arm(
    name: str, arms: Sequence[ArmRecord], baseline: Sequence[ArmRecord]
) -> ArmResult:
    speed = _tokens_per_second(arms)
    emitted = [count for arm in arms for count in arm.num_emitted]
    depths = [depth for arm in arms for depth in arm.depth]
    accepted = [count for arm in arms for count in arm.num_accepted]
    interval = bootstrap_ratio(
        [(arm.num_tokens, arm.seconds) for arm in arms],
        [(arm.num_tokens, arm.seconds) for arm in baseline],
    )
    return ArmResult(
        policy=name,
        num_tokens=sum(arm.num_tokens for arm in arms),
        seconds=sum(arm.seconds for arm in arms),
        tokens_per_second=speed,
        speedup=speed / _tokens_per_second(baseline),
        speedup_ci95=interval,
        tokens_per_round=sum(emitted) / max(1, len(emitted)),
        acceptance_by_depth=acceptance_by_depth(depths, accepted),
        conditional_acceptance_by_depth=conditional_acceptance(depths, accepted),
        draft_forwards=sum(depths),
        verified_nodes=sum(count for arm in arms for count in arm.num_verified),
        prefill_seconds=sum(arm.prefill_seconds for arm in arms),
        draft_seconds=sum(arm.draft_seconds for arm in arms),
        verify_seconds=sum(arm.verify_seconds for arm in arms),
        policy_seconds=sum(arm.policy_seconds for arm in arms),
        other_seconds=sum(arm.other_seconds for arm in arms),
    )


def _tokens_per_second(arms: Sequence[ArmRecord]) -> float:
    return sum(arm.num_tokens for arm in arms) / sum(arm.seconds for arm in arms)


def num_rounds(records: Sequence[PromptRecord], name: str) -> int:
    """Rounds of an arm, at least 1 so that its mean round is defined without any."""
    return max(1, sum(len(record.arms[name].num_emitted) for record in records))


def grouped(records: Sequence[PromptRecord], key: str) -> dict[str, list[PromptRecord]]:
    """The records of each `source` or `category`, in the order of their first prompts."""
    groups: dict[str, list[PromptRecord]] = {}
    for record in records:
        groups.setdefault(getattr(record, key), []).append(record)
    return groups


def results(
    records: Sequence[PromptRecord],
    identity: dict[str, Any],
    *,
    git: dict[str, Any] | None,
    split: str = "all",
    oracle: dict[str, Any] | None = None,
    recovered: dict[str, float | None] | None = None,
) -> dict[str, Any]:
    """The whole of `results.json`.

    Args:
        records: one for each prompt.
        identity: what makes the run this run; its `config` holds every option, resolved, among
            them `target` and `drafter`, their names.
        git: see `provenance`.
        split: of the prompts.
        oracle: what perfect foresight would reach, where it was computed.
        recovered: each arm's share of its family's headroom.
    """
    arms = [
        replace(arm, headroom_recovered=(recovered or {}).get(arm.policy))
        for arm in summarize(records)
    ]
    return {
        "target": identity["config"]["target"],
        "drafter": identity["config"]["drafter"],
        **identity,
        "git": git,
        "split": split,
        "baseline": BASELINE,
        "oracle": oracle,
        "arms": [asdict(arm) for arm in arms],
        "per_prompt": [_without_states(record) for record in records],
    }


def _without_states(record: PromptRecord) -> dict[str, Any]:
    """What policies had learned is for resuming a run, not for its readers."""
    return {key: value for key, value in record.to_json().items() if key != "policy_states"}
