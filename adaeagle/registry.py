"""Policies and predictors by name: entry points, and the strings that describe them.

A spec reads like a Python call and nests, e.g. `chain(stop=confidence(threshold=0.4), length=12)`.
It is parsed, never evaluated.
"""

import ast
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

POLICIES = "adaeagle.policies"
PREDICTORS = "adaeagle.predictors"


def names(group: str = POLICIES) -> list[str]:
    """Every registered name of a group, sorted."""
    return sorted(_entries(group))


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


def get_policy(spec: str | Policy) -> Policy:
    """The policy a string describes; a policy object is handed back as it is.

    A stop rule alone means a chain that it stops: `confidence(threshold=0.4)` is
    `chain(stop=confidence(threshold=0.4))`. The path of a folder that `adaeagle export` wrote means
    the policy in it.

    Raises:
        ValueError: the string does not parse, or a name or argument in it is unknown.
    """
    if isinstance(spec, Policy):
        return spec
    if spec not in names() and is_policy_folder(spec):
        spec = read_spec(Path(spec))
    built = build(spec)
    if isinstance(built, StopRule):
        built = lookup("chain")(stop=built)
    if not isinstance(built, Policy):
        raise ValueError(f"policy must describe a policy or a stop rule, got {spec!r}")
    return built


def build(spec: str, group: str = POLICIES) -> Any:
    """Whatever a spec describes, e.g. a policy, a stop rule or a predictor."""
    try:
        node = ast.parse(spec.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(
            f"a spec must read like name or name(argument=value, ...), got {spec!r}"
        ) from None
    if not isinstance(node, ast.Name | ast.Call):
        raise ValueError(f"a spec must read like name or name(argument=value, ...), got {spec!r}")
    return _build_node(node, spec, group)


def _build_node(node: ast.expr, spec: str, group: str) -> Any:
    if isinstance(node, ast.Name):
        return _construct(node.id, [], {}, group)
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name):
            raise ValueError(f"a spec must call a plain name, got {ast.unparse(node)!r}")
        arguments = [_build_node(argument, spec, group) for argument in node.args]
        keywords = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ValueError(f"a spec must name its arguments, got {ast.unparse(node)!r}")
            keywords[keyword.arg] = _build_node(keyword.value, spec, group)
        return _construct(node.func.id, arguments, keywords, group)
    if isinstance(node, ast.List | ast.Tuple):
        return [_build_node(element, spec, group) for element in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(
            f"a value must be a literal or a nested spec, got {ast.unparse(node)!r} in {spec!r}"
        ) from None


def _construct(name: str, arguments: list[Any], keywords: dict[str, Any], group: str) -> Any:
    factory = lookup(name, group)
    parameters = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for keyword in keywords:
        if keyword not in parameters and not takes_any:
            raise ValueError(_unknown("argument", keyword, list(parameters), where=f" of {name}"))
    try:
        inspect.signature(factory).bind(*arguments, **keywords)
    except TypeError as error:
        raise ValueError(f"{name}{inspect.signature(factory)}: {error}") from None
    return factory(*arguments, **keywords)


def _unknown(what: str, name: str, known: list[str], where: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {what} {name!r}{where}: {hint}known: {', '.join(known) or 'none'}"
