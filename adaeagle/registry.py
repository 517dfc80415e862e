"""Policies, predictors and drafters by name: entry points, and what specs build of them."""

import difflib
import inspect
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from adaeagle.policy import Policy, StopRule
from adaeagle.policy_folder import is_policy_folder, read_spec
from adaeagle.spec import Call, Fixed, Slot, parse

POLICIES = "adaeagle.policies"
PREDICTORS = "adaeagle.predictors"
DRAFTERS = "adaeagle.drafters"


def names(group: str = POLICIES) -> list[str]:
    """What is registered in a group, sorted; of several names of one thing its module's."""
    own: dict[str, str] = {}
    for name, entry in sorted(_entries(group).items()):
        if entry.value not in own or entry.module.endswith(f".{name}"):
            own[entry.value] = name
    return sorted(own.values())


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            raise ValueError(
                f"{entry.name!r} is registered twice in {group}: {known.value} and {entry.value}"
            )
    return found


def lookup(name: str, group: str = POLICIES) -> Callable[..., Any]:
    """The class or function registered under `name`."""
    entries = _entries(group)
    if name not in entries:
        raise ValueError(_unknown("name", name, sorted(entries), where=f" in {group}"))
    try:
        return entries[name].load()  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        raise _shadowed(error) or error from error


def _shadowed(error: ModuleNotFoundError) -> ImportError | None:
    """Says so where another package called `policies` or `predictors` hides ours."""
    package = (error.name or "").split(".")[0]
    module = sys.modules.get(package)
    home = Path(__file__).parent.parent
    found = getattr(module, "__file__", None)
    if package not in ("policies", "predictors") or found is None:
        return None
    if Path(found).parent == home / package:
        return None
    return ImportError(
        f"`import {package}` finds {found}, not AdaEAGLE's {home / package}. Run from another "
        "folder, rename yours, or start Python with -P."
    )


def get_policy(spec: str | Policy | StopRule) -> Policy:
    """The policy a string describes; a policy is handed back as it is.

    A stop rule alone means a chain that it stops: `confidence(threshold=0.4)` is
    `chain(stop=confidence(threshold=0.4))`. The path of a folder that `adaeagle export` wrote means
    the policy in it.

    Raises:
        ValueError: the string does not parse, or a name or argument in it is unknown.
    """
    if isinstance(spec, Policy):
        return spec
    if isinstance(spec, StopRule):
        return lookup("chain")(stop=spec)  # type: ignore[no-any-return]
    if not isinstance(spec, str):
        raise TypeError(f"policy must be a policy or a spec such as 'eagle2', got {spec!r}")
    if spec not in names() and is_policy_folder(spec):
        spec = read_spec(Path(spec))
    built = build(spec)
    if isinstance(built, StopRule):
        built = lookup("chain")(stop=built)
    if not isinstance(built, Policy):
        raise ValueError(f"policy must describe a policy or a stop rule, got {spec!r}")
    return built


def get_drafter(spec: Any, target: Any) -> Any:
    """The drafter a string describes, made for a target; a drafter object is handed back as it is.

    A name that is not registered is that of a head or of a small model: a bundled one, a folder or
    a Hugging Face id. `mini` is `eagle(head='mini')`.

    Args:
        spec: such as `eagle(head='mini')` or `lm(model='mini')`.
        target: what it drafts for.

    Raises:
        ValueError: the string does not parse, a name or argument in it is unknown, or the drafter
            does not fit the target.
        OSError: its files cannot be read.
    """
    if not isinstance(spec, str):
        return spec
    return build(drafter_spec(spec), DRAFTERS, target)


def drafter_spec(spec: str) -> str:
    """A drafter's spec; for the name of a head or of a small model, that of what loads it."""
    name = spec.strip().partition("(")[0]
    if name in names(DRAFTERS) or "(" in spec:
        return spec
    return f"pretrained(name={spec!r})"


def build(spec: str, group: str = POLICIES, *given: Any) -> Any:
    """Whatever a spec describes, e.g. a policy, a stop rule, a predictor or a drafter.

    Args:
        spec: see `adaeagle.spec`.
        group: where its names are registered.
        given: what every name in it is called with, before its own arguments.
    """
    call = parse(spec)
    assert isinstance(call, Call)
    return build_call(call, group, *given)


def build_call(call: Call, group: str = POLICIES, *given: Any) -> Any:
    """The same, of a spec that was parsed."""
    factory = lookup(call.name, group)
    signature = inspect.signature(factory)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for keyword, _ in call.arguments:
        if keyword not in signature.parameters and not takes_any:
            known = list(signature.parameters)[len(given) :]
            raise ValueError(_unknown("argument", keyword, known, where=f" of {call.name}"))
    positional = [*given, *(_value(slot, group, given) for slot in call.rules)]
    keywords = {name: _value(slot, group, given) for name, slot in call.arguments}
    try:
        signature.bind(*positional, **keywords)
    except TypeError as error:
        raise ValueError(f"{call.name}{signature}: {error}") from None
    return factory(*positional, **keywords)


def _value(slot: Slot, group: str, given: tuple[Any, ...]) -> Any:
    if isinstance(slot, Call):
        return build_call(slot, group, *given)
    assert isinstance(slot, Fixed)
    return slot.value


def _unknown(what: str, name: str, known: list[str], where: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {what} {name!r}{where}: {hint}known: {', '.join(known) or 'none'}"
