"""The run's policies and its headroom as rows, with numbers written as they are shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adaeagle.bench.results import ArmResult, num_rounds
from adaeagle.bench.runner import BASELINE
from experiments.report.finished import Finished
from experiments.views.plot_style import colour_of

PARTS = ("draft", "verify", "policy", "other")
EN_DASH, MINUS, TIMES = "\u2013", "\u2212", "\u00d7"


@dataclass(frozen=True, slots=True)
class Interval:
    """A speed-up on a line from 0 to the highest of all, in percent of its length."""

    low: float
    at: float
    high: float


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A policy in the table."""

    policy: str
    colour: str  # as in the pictures
    is_best: bool
    cells: dict[str, str]
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Table:
    """All policies."""

    rows: list[PolicyRow]
    one: float  # where a speed-up of 1 lies on the line of intervals, in percent


@dataclass(frozen=True, slots=True)
class Rung:
    """One speed on a ladder."""

    name: str
    kind: Literal["policy", "fixed", "oracle", "bound"]
    note: str
    speed: str
    percent: float  # of the ladder's length
    recovered: str


@dataclass(frozen=True, slots=True)
class Ladder:
    """Policies of one family between the best fixed draft and the oracles, the fastest on top."""

    family: str
    headroom: str
    num_members: int
    baseline: str
    chosen_on: str
    fixed: float  # percent of the ladder's length
    dp: float
    rungs: list[Rung]


def policy_table(run: Finished) -> Table:
    """The policies in their order."""
    highest = max(max((arm.speedup, *(arm.speedup_ci95 or ()))) for arm in run.arms)
    best = max(arm.speedup for arm in run.arms)
    rows = [
        PolicyRow(
            policy=arm.policy,
            colour=colour_of(place),
            is_best=arm.speedup == best,
            cells=_cells(arm, num_rounds(run.records, arm.policy), run.results["oracle"]),
            interval=_interval(arm, highest),
        )
        for place, arm in enumerate(run.arms)
    ]
    return Table(rows, 100 / highest)


def _interval(arm: ArmResult, highest: float) -> Interval | None:
    if arm.policy == BASELINE or arm.speedup_ci95 is None:
        return None
    low, high = arm.speedup_ci95
    return Interval(*(100 * value / highest for value in (low, arm.speedup, high)))


def _cells(arm: ArmResult, rounds: int, oracle: dict[str, Any] | None) -> dict[str, str]:
    spent = {part: 1000 * getattr(arm, f"{part}_seconds") / rounds for part in PARTS}
    has_interval = arm.policy != BASELINE and arm.speedup_ci95 is not None
    low, high = arm.speedup_ci95 or (0.0, 0.0)
    cells = {
        "tokens_per_second": f"{arm.tokens_per_second:.1f}",
        "speedup": f"{arm.speedup:.2f}{TIMES}",
        "speedup_ci95": f"{low:.2f}{EN_DASH}{high:.2f}" if has_interval else "",
        "tokens_per_round": f"{arm.tokens_per_round:.2f}",
        "draft_forwards": f"{arm.draft_forwards / rounds:.1f}",
        "verified_nodes": f"{arm.verified_nodes / rounds:.1f}",
        **{part: f"{milliseconds:.2f}" for part, milliseconds in spent.items()},
        "sum": f"{sum(spent.values()):.2f}",
    }
    if oracle is not None:
        cells["headroom_recovered"] = _share(arm.headroom_recovered)
        cells["family"] = oracle["family_of"][arm.policy]
    return cells


def ladders(run: Finished) -> list[Ladder]:
    """One for each family with an oracle; none where no oracle was computed."""
    oracle = run.results["oracle"]
    if oracle is None:
        return []
    return [_ladder(name, oracle, run.arms) for name in oracle["families"]]


def _ladder(name: str, oracle: dict[str, Any], arms: Sequence[ArmResult]) -> Ladder:
    family = oracle["families"][name]
    bound = oracle["clairvoyant"]
    members = [arm for arm in arms if oracle["family_of"][arm.policy] == name]
    highest = max(bound, family["dp"], *(arm.tokens_per_second for arm in members))

    def rung(title: str, kind: Any, note: str, speed: float, recovered: float | None) -> Rung:
        shown = "" if kind == "bound" else _share(recovered)
        return Rung(title, kind, note, f"{speed:.1f}", 100 * speed / highest, shown)

    found = [
        (bound, rung("clairvoyant", "bound", "any family; depends on the trace", bound, None)),
        *(
            (family[key], rung(key, "oracle", note, family[key], _recovered(family, family[key])))
            for key, note in (("dp", "foresight"), ("greedy", "drafts just what is accepted"))
        ),
        (family["fixed"], rung(family["baseline"], "fixed", "best fixed", family["fixed"], 0.0)),
        *(
            (arm.tokens_per_second, rung(arm.policy, "policy", "", arm.tokens_per_second, share))
            for arm in members
            for share in [arm.headroom_recovered]
        ),
    ]
    found.sort(key=lambda pair: pair[0], reverse=True)
    return Ladder(
        family=name,
        headroom=f"{family['headroom']:+.1%}",
        num_members=family["num_members"],
        baseline=family["baseline"],
        chosen_on=family["baseline_chosen_on"],
        fixed=100 * family["fixed"] / highest,
        dp=100 * family["dp"] / highest,
        rungs=[rung for _, rung in found],
    )


def _recovered(family: dict[str, Any], speed: float) -> float | None:
    gain = family["dp"] - family["fixed"]
    return (speed - family["fixed"]) / gain if gain > 0 else None


def _share(share: float | None) -> str:
    """A share of headroom with its sign; nothing where there is none."""
    if share is None:
        return ""
    return f"{share:+.0%}".replace("-", MINUS) if round(100 * share) else "0%"
