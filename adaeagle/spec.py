"""The strings that describe policies, predictors and drafters: parsed, never evaluated.

A spec reads like a Python call and nests, e.g. `chain(stop=confidence(threshold=0.4), length=12)`.
In the template of a sweep a `?` stands for what is to be found.
"""

import ast
import re
from dataclasses import dataclass
from typing import Any

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
    """A name, with what stands in its brackets."""

    name: str
    rules: tuple["Slot", ...] = ()  # arguments without a name
    arguments: tuple[tuple[str, "Slot"], ...] = ()

    def spec(self) -> str:
        """As it is parsed."""
        given = [_render(rule) for rule in self.rules]
        given += [f"{name}={_render(slot)}" for name, slot in self.arguments]
        return f"{self.name}({', '.join(given)})" if given else self.name


Slot = Call | Fixed | Gap


def _render(slot: Slot) -> str:
    if isinstance(slot, Call):
        return slot.spec()
    return "?" if isinstance(slot, Gap) else repr(slot.value)


def parse(text: str, *, gaps: bool = False) -> Call | Gap:
    """What a spec says.

    Args:
        text: the spec.
        gaps: whether a `?` may stand for an argument, or for all of it.

    Raises:
        ValueError: it does not parse.
    """
    named = (
        QUOTED_OR_GAP.sub(lambda m: GAP if m[0] == "?" else m[0], text.strip()) if gaps else text
    )
    must = "a spec must read like name or name(argument=value, ...)"
    try:
        node = ast.parse(named.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(f"{must}, got {text!r}") from None
    if not isinstance(node, ast.Name | ast.Call):
        raise ValueError(f"{must}, got {text!r}")
    slot = _slot(node, text)
    assert not isinstance(slot, Fixed)
    return slot


def _slot(node: ast.expr, text: str) -> Slot:
    if isinstance(node, ast.Name):
        return Gap() if node.id == GAP else Call(node.id)
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name):
            raise ValueError(f"a spec must call a plain name, got {ast.unparse(node)!r}")
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError(f"a spec must name its arguments, got {ast.unparse(node)!r}")
        return Call(
            node.func.id,
            tuple(_slot(argument, text) for argument in node.args),
            tuple((str(keyword.arg), _slot(keyword.value, text)) for keyword in node.keywords),
        )
    try:
        return Fixed(ast.literal_eval(node))
    except ValueError:
        value = ast.unparse(node).replace(GAP, "?")
        raise ValueError(
            f"a value must be a literal or a nested spec, got {value!r} in {text!r}"
        ) from None
