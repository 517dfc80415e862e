"""Specs with gaps: what of a policy is given, and what a sweep has to find.

A template reads like a spec. What it does not say is searched where the policy declares bounds for
it; `?` asks for a stop rule, whichever: `chain(stop=?)`, `eagle2(width=10)`, `all_of(?, entropy)`.
"""

import inspect
from typing import Any

from adaeagle.policy import Policy, StopRule
from adaeagle.registry import lookup
from adaeagle.search_space import Dimension, SearchSpace, StopRuleChoice
from adaeagle.spec import Call, Gap, Slot
from adaeagle.spec import parse as parse_spec


def parse(text: str) -> Call:
    """The template of a policy; a stop rule alone stops a chain.

    Raises:
        ValueError: it does not parse, a name or argument is unknown, or a gap is where no stop rule
            can be.
    """
    slot = parse_spec(text, gaps=True)
    if isinstance(slot, Call):
        slot = _bound(slot)
    is_policy = isinstance(slot, Call) and _is_a(lookup(slot.name), Policy)
    call = slot if is_policy else Call("chain", arguments=(("stop", slot),))
    assert isinstance(call, Call)
    _check(call)
    return call


def space_of(call: Call) -> SearchSpace:
    """What a call's policy or rule declares; nothing where it is no class of ours."""
    space: SearchSpace = getattr(lookup(call.name), "search_space", {})
    return space


def defaults_of(call: Call) -> dict[str, Any]:
    """Arguments that need not be given."""
    parameters = inspect.signature(lookup(call.name)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def kind_of(call: Call) -> str:
    """The rules a call is made of, without their numbers."""
    parts = [kind_of(rule) for rule in call.rules if isinstance(rule, Call)]
    parts += [f"{name}={kind_of(s)}" for name, s in call.arguments if isinstance(s, Call)]
    return f"{call.name}({', '.join(parts)})" if parts else call.name


def _is_a(factory: Any, kind: type) -> bool:
    return isinstance(factory, type) and issubclass(factory, kind)


def _bound(call: Call) -> Call:
    """Arguments that are given by their place, given by name, where they have one."""
    signature = inspect.signature(lookup(call.name))
    parameters = list(signature.parameters.values())
    rules: list[Slot] = []
    arguments: list[tuple[str, Slot]] = []
    for place, slot in enumerate(map(_bound_slot, call.rules)):
        parameter = parameters[min(place, len(parameters) - 1)] if parameters else None
        if parameter is not None and parameter.kind is parameter.VAR_POSITIONAL:
            rules.append(slot)
        elif parameter is None or place >= len(parameters):
            raise ValueError(f"{call.name}{signature}: too many arguments")
        else:
            arguments.append((parameter.name, slot))
    arguments += [(name, _bound_slot(slot)) for name, slot in call.arguments]
    return Call(call.name, tuple(rules), tuple(arguments))


def _bound_slot(slot: Slot) -> Slot:
    return _bound(slot) if isinstance(slot, Call) else slot


def _check(call: Call) -> None:
    """Refuses unknown arguments, and gaps where no stop rule can be."""
    parameters = inspect.signature(lookup(call.name)).parameters
    for name, slot in call.arguments:
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise ValueError(f"unknown argument {name!r} of {call.name}: known: {known}")
        if isinstance(slot, Gap) and not isinstance(space_of(call).get(name), StopRuleChoice):
            raise ValueError(f"? must stand for a stop rule, {name} of {call.name} is none")
    for slot in (*call.rules, *(slot for _, slot in call.arguments)):
        if isinstance(slot, Call):
            _check(slot)


def searched(call: Call) -> dict[str, Dimension]:
    """The arguments of a call, not of what it nests, that a sweep sets."""
    given = dict(call.arguments)
    return {
        name: dimension
        for name, dimension in space_of(call).items()
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
