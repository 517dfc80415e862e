"""The run's headroom as ladders: policies between the best fixed draft and the oracles."""

from dataclasses import dataclass
from typing import Any

from experiments.report.finished import Finished


@dataclass(frozen=True, slots=True)
class Rung:
    """One speed on a ladder."""

    name: str
    kind: str  # policy, fixed, oracle or bound
    note: str
    speed: float  # tokens a second
    recovered: float | None


@dataclass(frozen=True, slots=True)
class Ladder:
    """One family, the fastest on top."""

    family: str
    found: dict[str, Any]  # of the results' `oracle`
    rungs: list[Rung]

    @property
    def highest(self) -> float:
        return self.rungs[0].speed


def ladders(run: Finished) -> list[Ladder]:
    """One for each family with an oracle; none where no oracle was computed."""
    oracle = run.results["oracle"]
    if oracle is None:
        return []
    return [_ladder(run, oracle, name) for name in oracle["families"]]


def _ladder(run: Finished, oracle: dict[str, Any], name: str) -> Ladder:
    family = oracle["families"][name]
    gain = family["dp"] - family["fixed"]

    def recovered(speed: float) -> float | None:
        return (speed - family["fixed"]) / gain if gain > 0 else None

    bound = "any family; depends on the trace"
    greedy, dp = family["greedy"], family["dp"]
    rungs = [
        Rung("clairvoyant", "bound", bound, oracle["clairvoyant"], None),
        Rung("dp", "oracle", "foresight", dp, recovered(dp)),
        Rung("greedy", "oracle", "drafts just what is accepted", greedy, recovered(greedy)),
        Rung(family["baseline"], "fixed", "best fixed", family["fixed"], 0.0),
        *(
            Rung(arm.policy, "policy", "", arm.tokens_per_second, arm.headroom_recovered)
            for arm in run.arms
            if oracle["family_of"][arm.policy] == name
        ),
    ]
    return Ladder(name, family, sorted(rungs, key=lambda rung: -rung.speed))
