"""What a study found: the best policy, the best of each template, every trial as a table."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from experiments.sweep.objective import Result


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

    Where all of a template were stopped early, the best is told from the prompts they were judged
    on: such a template lost against another one.

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
        known = [one for one in own if _is_one_of(one.parameters, published)]
        found[text] = {
            "best": fastest(whole(own) or own).to_json(),
            "published": fastest(whole(known) or known).to_json() if known else None,
            "num_trials": len(own),
        }
    return found


def _is_one_of(parameters: dict[str, Any], known: Sequence[dict[str, Any]]) -> bool:
    return any(parameters == each for each in known)


def last_refusal(study: Study) -> str:
    """Why the latest trial that came to nothing did."""
    for trial in reversed(study.get_trials(deepcopy=False)):
        result = Result.of(trial)
        if result is not None and result.refused:
            return result.refused
    return "no trial has ended"


def trials_table(study: Study) -> pa.Table:
    """Every trial as a row: state, policy, results, and a column for each parameter."""
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False)]
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _row(trial: FrozenTrial) -> dict[str, Any]:
    result = Result.of(trial)
    left = {} if result is None else result.to_json()
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        **{name: left.get(name) for name in Result.__slots__},
        "began": trial.datetime_start,
        "ended": trial.datetime_complete,
        **trial.params,
    }


def _column(values: list[Any]) -> pa.Array:
    """Numbers as numbers, anything mixed as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        values = [None if value is None else str(value) for value in values]
    elif kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    return pa.array(values)


def as_csv(table: pa.Table) -> bytes:
    """The bytes of a CSV file."""
    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink)
    return sink.getvalue()


def as_parquet(table: pa.Table) -> bytes:
    """The bytes of a Parquet file."""
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


MOST_SHOWN = 10


def best_table(trials: Sequence[Tried], plain: float, is_single: bool) -> Group:
    """The best policies: the fastest, or the front of speed against nodes.

    Args:
        trials: all.
        plain: tokens a second without drafting.
        is_single: whether speed alone counts.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("trial", justify="right")
    table.add_column("policy", overflow="fold", min_width=32)
    for title in ("tokens/s", "speed-up", "tokens\na round", "nodes\na token"):
        table.add_column(title, justify="right", no_wrap=True)
    shown = list(_fastest_first(trials)) if is_single else pareto_front(trials)
    for place, one in enumerate(shown[:MOST_SHOWN]):
        table.add_row(
            str(one.number),
            one.result.policy,
            f"{one.speed:.1f}",
            f"{one.speed / plain:.2f}x",
            f"{one.result.tokens_per_round:.2f}",
            f"{one.nodes:.2f}",
            style="bold" if place == 0 else None,
        )
    title = "the fastest on the tune split, replayed"
    if not is_single:
        title = "the fastest for their number of verified nodes, on the tune split, replayed"
    return Group(Text(title, style="italic"), table)


def _fastest_first(trials: Sequence[Tried]) -> Iterator[Tried]:
    """Those on all prompts, each policy once."""
    seen = set()
    for one in sorted(whole(trials), key=lambda each: (-each.speed, each.number)):
        if one.result.policy not in seen:
            seen.add(one.result.policy)
            yield one


def family_table(found: dict[str, dict[str, Any]], plain: float) -> Group:
    """Each template's best, beside what was published of it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("searched", overflow="fold")
    table.add_column("best", overflow="fold", min_width=32)
    for title in ("speed-up", "as published", "trials"):
        table.add_column(title, justify="right", no_wrap=True)
    for text, family in found.items():
        best, published = family["best"], family["published"]
        table.add_row(
            text,
            best["policy"],
            _speedup(best, plain),
            "-" if published is None else _speedup(published, plain),
            str(family["num_trials"]),
        )
    title = "tuned against published settings (~: stopped early, told from some prompts)"
    return Group(Text(title, style="italic"), table)


def _speedup(one: dict[str, Any], plain: float) -> str:
    is_whole = one["judged_on"] is None
    return f"{'' if is_whole else '~'}{one['tokens_per_second'] / plain:.2f}x"
