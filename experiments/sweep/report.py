"""What a study found: the best policy, the best of each template, every trial as a table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import RenderableType

from experiments.sweep.objective import Result
from experiments.sweep.suggesting import TEMPLATE
from experiments.views.sheet import Sheet

MOST_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Tried:
    """A policy that was replayed, on all prompts or on enough of them."""

    number: int
    parameters: dict[str, Any]
    result: Result
    speed: float  # tokens a second
    nodes: float  # verified for each token

    def to_json(self) -> dict[str, Any]:
        return {
            "policy": self.result.policy,
            "tokens_per_second": self.speed,
            "tokens_per_round": self.result.tokens_per_round,
            "verified_per_token": self.nodes,
            "judged_on": self.result.judged_on,
            "parameters": self.parameters,
            "trial": self.number,
        }


def tried(study: Study) -> list[Tried]:
    """The policies of all trials that came to a value, in the order of the trials."""
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        result = Result.of(trial)
        assert result is not None
        assert result.tokens_per_second is not None
        assert result.verified_per_token is not None
        speed, nodes = result.tokens_per_second, result.verified_per_token
        found.append(Tried(trial.number, dict(trial.params), result, speed, nodes))
    return found


def whole(trials: Sequence[Tried]) -> list[Tried]:
    """Those that were replayed on all prompts."""
    return [one for one in trials if one.result.judged_on is None]


def fastest(trials: Sequence[Tried]) -> Tried:
    """The one of most tokens a second; the first of equal."""
    return max(trials, key=lambda one: one.speed)


def pareto_front(trials: Sequence[Tried]) -> list[Tried]:
    """Those than which none is faster with as few nodes; by speed, one of equal."""
    front: list[Tried] = []
    for one in sorted(whole(trials), key=lambda each: (each.nodes, -each.speed, each.number)):
        if not front or one.speed > front[-1].speed:
            front.append(one)
    return front[::-1]


def families(
    trials: Sequence[Tried], templates: Sequence[str], published: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The best of each template, and the best of what was published of it.

    Where all of a template were stopped early, the best is judged by the prompts they ran on: such
    a template lost against another one.

    Args:
        trials: all.
        templates: their texts.
        published: parameters of the trials that try what was published.
    """
    found = {}
    for text in templates:
        own = [one for one in trials if one.result.template == text]
        if not own:
            continue
        known = [one for one in own if one.parameters in published]
        found[text] = {
            "best": fastest(whole(own) or own).to_json(),
            "published": fastest(whole(known) or known).to_json() if known else None,
            "num_trials": len(own),
        }
    return found


def trials_table(study: Study) -> pa.Table:
    """Every trial as a row: state, policy, results, and a column for each parameter."""
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False)]
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _row(trial: FrozenTrial) -> dict[str, Any]:
    result = Result.of(trial)
    left = {} if result is None else asdict(result)
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        **{field.name: left.get(field.name) for field in fields(Result)},
        "began": trial.datetime_start,
        "ended": trial.datetime_complete,
        # Their names begin with their template, but for the choice of a template: a result too.
        **{name: value for name, value in trial.params.items() if name != TEMPLATE},
    }


def _column(values: list[Any]) -> pa.Array:
    """Numbers as numbers, anything mixed as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        values = [None if value is None else str(value) for value in values]
    elif kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    return pa.array(values)


def best_table(trials: Sequence[Tried], plain: dict[str, Any], is_single: bool) -> RenderableType:
    """The best policies: the fastest, or the front of speed against nodes; plain decoding is one.

    Args:
        trials: all.
        plain: what plain decoding comes to, as `Tried.to_json`.
        is_single: whether speed alone counts.
    """
    chosen = (
        sorted(whole(trials), key=lambda one: -one.speed) if is_single else pareto_front(trials)
    )
    rows = [one.to_json() for one in chosen[:MOST_SHOWN]]
    rows = sorted([*rows, plain], key=lambda row: -row["tokens_per_second"])
    title = "the fastest on the tune split, replayed"
    if not is_single:
        title = "the fastest for their number of verified nodes, on the tune split, replayed"
    return Sheet(
        title,
        rows,
        {"policy": lambda row: row["policy"]},
        {
            "trial": lambda row: "-" if row["trial"] is None else row["trial"],
            "tokens/s": lambda row: f"{row['tokens_per_second']:.1f}",
            "speed-up": lambda row: _speedup(row, plain),
            "tokens\na round": lambda row: f"{row['tokens_per_round']:.2f}",
            "nodes\na token": lambda row: f"{row['verified_per_token']:.2f}",
        },
        is_bold=lambda row: row is rows[0],
    )


def family_table(found: dict[str, dict[str, Any]], plain: dict[str, Any]) -> RenderableType:
    """Each template's best, beside what was published of it."""
    return Sheet(
        "tuned against published settings (~: stopped early, judged by some prompts)",
        list(found.items()),
        {"searched": lambda row: row[0], "best": lambda row: row[1]["best"]["policy"]},
        {
            "speed-up": lambda row: _speedup(row[1]["best"], plain),
            "as published": lambda row: _speedup(row[1]["published"], plain),
            "trials": lambda row: row[1]["num_trials"],
        },
    )


def _speedup(one: dict[str, Any] | None, plain: dict[str, Any]) -> str:
    if one is None:
        return "-"
    mark = "" if one["judged_on"] is None else "~"
    return f"{mark}{one['tokens_per_second'] / plain['tokens_per_second']:.2f}x"
