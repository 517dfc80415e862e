"""From a template to a spec: every gap filled by a suggester."""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Protocol

import numpy as np
import optuna

from adaeagle.registry import lookup
from adaeagle.search_space import Categorical, Dimension, Float, Int, StopRuleChoice, Tree
from adaeagle.spec import Call, Fixed, Gap, Slot
from experiments.sweep.template import defaults_of, searched

TEMPLATE = "template"
"""The parameter that says which template a trial is of, where there are several."""
FITTED = "fitted"
"""What a static tree is called that is made for the texts at hand."""
GRID_POINTS = 6
"""Of each number, in a grid."""
MOST_DRAWS = 200
"""To find a setting that was not tried."""

Option = str | int | float | bool | None


def _no_trees(nodes: int, depth: int) -> list[list[int]]:
    raise ValueError("static trees are fitted to texts, and there are none")


@dataclass(frozen=True, slots=True)
class SearchContext:
    """What gaps can be filled with, beside numbers."""

    rules: Sequence[str]  # names of stop rules
    fit: Callable[[int, int], list[list[int]]] = _no_trees
    """The best static tree of at most so many nodes and levels."""


class InfeasibleError(ValueError):
    """Values that do not go together."""


class Suggester(Protocol):
    """Whoever fills gaps. Names are those of the study's parameters."""

    def suggest_number(self, name: str, dimension: Int | Float, default: Any) -> float: ...

    def suggest_categorical(self, name: str, options: Sequence[Option], default: Any) -> Option: ...


@dataclass(frozen=True, slots=True)
class TrialSuggester:
    """Takes what the sampler of a study draws."""

    trial: optuna.Trial

    def suggest_number(self, name: str, dimension: Int | Float, default: Any) -> float:
        if isinstance(dimension, Int):
            return self.trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
        return self.trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)

    def suggest_categorical(self, name: str, options: Sequence[Option], default: Any) -> Option:
        return self.trial.suggest_categorical(name, list(options))


@dataclass(frozen=True, slots=True)
class GridSuggester(TrialSuggester):
    """Points of a grid: some of each number's, its published value among them."""

    def suggest_number(self, name: str, dimension: Int | Float, default: Any) -> float:
        space = np.geomspace if dimension.log else np.linspace
        found = space(dimension.low, dimension.high, GRID_POINTS)
        points: set[float] = {float(f"{point:.4g}") for point in found}
        if isinstance(dimension, Int):
            points = {round(point) for point in points}
        if _is_within(default, dimension):
            points.add(default)
        return self.trial.suggest_categorical(name, sorted(points))


@dataclass(slots=True)
class DefaultSuggester:
    """Published values, kept as the parameters of a trial.

    A value that is published but out of bounds is left to the sampler: it is not kept.
    """

    turn: int = 0  # which of the rules that a gap may stand for
    parameters: dict[str, Option] = field(default_factory=dict)

    def suggest_number(self, name: str, dimension: Int | Float, default: Any) -> float:
        if not _is_within(default, dimension):
            return dimension.low
        self.parameters[name] = int(default) if isinstance(dimension, Int) else float(default)
        return float(default)

    def suggest_categorical(self, name: str, options: Sequence[Option], default: Any) -> Option:
        if default not in options:
            default = options[self.turn % len(options)]
            self.turn += 1
        self.parameters[name] = default
        return default  # type: ignore[no-any-return]


@dataclass(slots=True)
class RandomSuggester:
    """Values drawn evenly, kept as the parameters of a trial."""

    random: Random
    parameters: dict[str, Option] = field(default_factory=dict)

    def suggest_number(self, name: str, dimension: Int | Float, default: Any) -> float:
        low, high = dimension.low, dimension.high
        if isinstance(dimension, Int) and not dimension.log:
            value: float = self.random.randint(dimension.low, dimension.high)
        elif dimension.log:
            value = math.exp(self.random.uniform(math.log(low), math.log(high)))
        else:
            value = self.random.uniform(low, high)
        value = min(high, max(low, round(value) if isinstance(dimension, Int) else value))
        self.parameters[name] = value
        return value

    def suggest_categorical(self, name: str, options: Sequence[Option], default: Any) -> Option:
        self.parameters[name] = self.random.choice(options)
        return self.parameters[name]


def _is_within(value: Any, dimension: Int | Float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and dimension.low <= value <= dimension.high


def suggest_policy(
    suggester: Suggester, templates: Mapping[str, Call], context: SearchContext
) -> tuple[str, Call]:
    """One of the templates, by its text, and what fills it.

    Raises:
        InfeasibleError: the values do not go together.
    """
    texts = list(templates)
    text = texts[0]
    if len(texts) > 1:
        text = str(suggester.suggest_categorical(TEMPLATE, texts, None))
    return text, suggest_call(suggester, templates[text], text, context)


def suggest_call(suggester: Suggester, call: Call, name: str, context: SearchContext) -> Call:
    """A call without gaps.

    Args:
        suggester: fills them.
        call: what is given.
        name: of the call, which the names of its parameters begin with.
        context: what it is filled with.

    Raises:
        InfeasibleError: the values do not go together.
    """
    gaps, defaults = searched(call), defaults_of(call)
    given = dict(call.arguments)
    arguments: list[tuple[str, Slot]] = []
    for argument in (*given, *(gap for gap in gaps if gap not in given)):
        parameter = f"{name}.{argument}"
        slot = given.get(argument)
        if argument in gaps:
            slot = _fill(suggester, gaps[argument], parameter, defaults.get(argument), context)
        elif isinstance(slot, Call):
            slot = suggest_call(suggester, slot, parameter, context)
        assert slot is not None
        arguments.append((argument, slot))
    rules = tuple(
        _fill(suggester, StopRuleChoice(), f"{name}.{place}", None, context)
        if isinstance(rule, Gap)
        else suggest_call(suggester, rule, f"{name}.{place}", context)
        if isinstance(rule, Call)
        else rule
        for place, rule in enumerate(call.rules)
    )
    filled = replace(call, rules=rules, arguments=tuple(arguments))
    _check_feasible(filled)
    return filled


def _fill(
    suggester: Suggester, dimension: Dimension, name: str, default: Any, context: SearchContext
) -> Slot:
    if isinstance(dimension, Int):
        return Fixed(int(suggester.suggest_number(name, dimension, default)))
    if isinstance(dimension, Float):
        # Four digits are enough for any of these, and can be read.
        return Fixed(float(f"{suggester.suggest_number(name, dimension, default):.4g}"))
    if isinstance(dimension, Categorical):
        return Fixed(_choose(suggester, name, dimension, default))
    if isinstance(dimension, StopRuleChoice):
        rule = str(suggester.suggest_categorical(name, context.rules, None))
        return suggest_call(suggester, Call(rule), f"{name}.{rule}", context)
    return Fixed(_tree(suggester, name, dimension, default, context))


def _choose(suggester: Suggester, name: str, dimension: Categorical, default: Any) -> Any:
    """One of any values; what a study cannot hold goes by its text."""
    known: dict[Option, Any] = {
        option if option is None or isinstance(option, str | int | float) else repr(option): option
        for option in dimension.options
    }
    spelled = [text for text, option in known.items() if option == default]
    return known[suggester.suggest_categorical(name, list(known), spelled[0] if spelled else None)]


def _tree(
    suggester: Suggester, name: str, dimension: Tree, default: Any, context: SearchContext
) -> Any:
    chosen = suggester.suggest_categorical(name, [FITTED, *dimension.named], default)
    if chosen != FITTED:
        return chosen
    nodes = suggester.suggest_number(f"{name}.nodes", dimension.nodes, None)
    depth = suggester.suggest_number(f"{name}.depth", dimension.depth, None)
    return context.fit(int(nodes), int(depth))


def _check_feasible(call: Call) -> None:
    is_feasible = getattr(lookup(call.name), "is_feasible", None)
    if is_feasible is None:
        return
    given = {name: s.value if isinstance(s, Fixed) else s for name, s in call.arguments}
    if not is_feasible(defaults_of(call) | given):
        raise InfeasibleError(f"{call.spec()}: its arguments do not go together")


def published(templates: Mapping[str, Call], context: SearchContext) -> list[dict[str, Option]]:
    """The parameters of the trials that try every template, and every rule, as it was published."""
    found: list[dict[str, Option]] = []
    for text, call in templates.items():
        for turn in range(max(1, len(context.rules))):
            suggester = DefaultSuggester(turn)
            if len(templates) > 1:
                suggester.parameters[TEMPLATE] = text
            try:
                suggest_call(suggester, call, text, context)
            except InfeasibleError:
                continue
            if suggester.parameters and suggester.parameters not in found:
                found.append(suggester.parameters)
    return found


def unseen(
    templates: Mapping[str, Call],
    text: str,
    context: SearchContext,
    seen: Container[str],
    random: Random,
) -> dict[str, Option] | None:
    """Parameters of a trial whose setting is none of those that were seen.

    Args:
        templates: all of the study, by their texts.
        text: of the template to fill.
        context: what it is filled with.
        seen: specs.
        random: what they are drawn with.

    Returns:
        None where `MOST_DRAWS` found none: there is hardly any left.
    """
    for _ in range(MOST_DRAWS):
        suggester = RandomSuggester(random)
        try:
            spec = suggest_call(suggester, templates[text], text, context).spec()
        except InfeasibleError:
            continue
        if spec not in seen:
            return ({TEMPLATE: text} if len(templates) > 1 else {}) | suggester.parameters
    return None
