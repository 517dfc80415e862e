"""Specs with gaps: what of a policy is given, and what a sweep has to find.

A template reads like a spec. What it does not say is searched where the policy declares bounds for
it; `?` asks for a stop rule, whichever: `chain(stop=?)`, `eagle2(width=10)`, `all_of(?, entropy)`.
"""

import ast
import inspect
import re
from dataclasses import dataclass
from typing import Any

from adaeagle.policy import Policy, StopRule
from adaeagle.registry import lookup
from adaeagle.search_space import Dimension, SearchSpace, StopRuleChoice

GAP = "__gap__"  # what `?` is called while Python's parser reads it
QUOTED_OR_GAP = re.compile(r"'[^']*'|\"[^\"]*\"|\?")


@dataclass(frozen=True, slots=True)
class Gap:
    """A `?`."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A value."""

    value: Any


@dataclass(frozen=True, slots=True)
class Call:
    """A policy or stop rule, with those of its arguments that are given."""

    name: str
    rules: tuple["Slot", ...] = ()  # arguments without a name: any number of rules
    arguments: tuple[tuple[str, "Slot"], ...] = ()

    @property
    def factory(self) -> Any:
        """What is registered under the name."""
        return lookup(self.name)

    @property
    def space(self) -> SearchSpace:
        """What it declares; nothing where it is no class of ours."""
        space: SearchSpace = getattr(self.factory, "search_space", {})
        return space

    @property
    def defaults(self) -> dict[str, Any]:
        """Its arguments that need not be given."""
        parameters = inspect.signature(self.factory).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    def spec(self) -> str:
        """As `get_policy` reads it, without gaps."""
        given = [_render(rule) for rule in self.rules]
        given += [f"{name}={_render(slot)}" for name, slot in self.arguments]
        return f"{self.name}({', '.join(given)})" if given else self.name

    def kind(self) -> str:
        """The rules it is made of, without their numbers."""
        parts = [rule.kind() for rule in self.rules if isinstance(rule, Call)]
        parts += [f"{name}={s.kind()}" for name, s in self.arguments if isinstance(s, Call)]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


Slot = Call | Fixed | Gap


def _render(slot: Slot) -> str:
    if isinstance(slot, Call):
        return slot.spec()
    return "?" if isinstance(slot, Gap) else repr(slot.value)


def parse(text: str) -> Call:
    """The template of a policy; a stop rule alone stops a chain.

    Raises:
        ValueError: it does not parse, a name or argument is unknown, or a gap is where no stop rule
            can be.
    """
    with_names = QUOTED_OR_GAP.sub(lambda m: GAP if m[0] == "?" else m[0], text.strip())
    try:
        node = ast.parse(with_names, mode="eval").body
    except SyntaxError:
        raise ValueError(
            f"a template must read like name or name(argument=value, stop=?), got {text!r}"
        ) from None
    slot = _slot(node)
    if isinstance(slot, Fixed):
        raise ValueError(f"a template must name a policy or a stop rule, got {text!r}")
    is_policy = isinstance(slot, Call) and _is_a(slot.factory, Policy)
    call = slot if is_policy else Call("chain", arguments=(("stop", slot),))
    assert isinstance(call, Call)
    _check(call)
    return call


def _is_a(factory: Any, kind: type) -> bool:
    return isinstance(factory, type) and issubclass(factory, kind)


def _slot(node: ast.expr) -> Slot:
    if isinstance(node, ast.Name):
        return Gap() if node.id == GAP else Call(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call(node.func.id, node)
    try:
        return Fixed(ast.literal_eval(node))
    except ValueError:
        said = ast.unparse(node).replace(GAP, "?")
        raise ValueError(f"a value must be a literal, a nested spec or ?, got {said!r}") from None


def _call(name: str, node: ast.Call) -> Call:
    """With arguments that are given by their place told by name, where they have one."""
    rules: list[Slot] = []
    arguments: list[tuple[str, Slot]] = []
    parameters = list(inspect.signature(lookup(name)).parameters.values())
    for place, argument in enumerate(node.args):
        slot = _slot(argument)
        parameter = parameters[min(place, len(parameters) - 1)] if parameters else None
        if parameter is not None and parameter.kind is parameter.VAR_POSITIONAL:
            rules.append(slot)
        elif parameter is None or place >= len(parameters):
            raise ValueError(f"{name}{inspect.signature(lookup(name))}: too many arguments")
        else:
            arguments.append((parameter.name, slot))
    arguments += [(keyword.arg or "", _slot(keyword.value)) for keyword in node.keywords]
    return Call(name, tuple(rules), tuple(arguments))


def _check(call: Call) -> None:
    """Refuses unknown arguments, and gaps where no stop rule can be."""
    parameters = inspect.signature(call.factory).parameters
    for name, slot in call.arguments:
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise ValueError(f"unknown argument {name!r} of {call.name}: known: {known}")
        if isinstance(slot, Gap) and not isinstance(call.space.get(name), StopRuleChoice):
            raise ValueError(f"? must stand for a stop rule, {name} of {call.name} is none")
    for slot in (*call.rules, *(slot for _, slot in call.arguments)):
        if isinstance(slot, Call):
            _check(slot)


def searched(call: Call) -> dict[str, Dimension]:
    """The arguments of a call, not of what it nests, that a sweep sets."""
    given = dict(call.arguments)
    return {
        name: dimension
        for name, dimension in call.space.items()
        if (name not in given and not isinstance(dimension, StopRuleChoice))
        or isinstance(given.get(name), Gap)
    }


def has_gap(call: Call) -> bool:
    """Whether a `?` is anywhere in it."""
    slots = (*call.rules, *(slot for _, slot in call.arguments))
    return any(isinstance(s, Gap) or (isinstance(s, Call) and has_gap(s)) for s in slots)


def is_rule(name: str) -> bool:
    """Whether a registered name is a stop rule that needs no argument: `?` may stand for it.

    Raises:
        ImportError: it cannot be loaded.
    """
    factory = lookup(name)
    parameters = inspect.signature(factory).parameters.values()
    return _is_a(factory, StopRule) and all(p.default is not p.empty for p in parameters)
