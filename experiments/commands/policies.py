"""`adaeagle policies`: what is registered, with arguments and sources."""

import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from experiments import options
from experiments.errors import argument

EXAMPLE = """Example:

adaeagle policies

adaeagle policies eagle2 --space

A name with arguments makes a SPEC, and a stop rule goes into any shape:
"eagle2(depth=6, width=4, nodes=24, stop=confidence(threshold=0.2))"."""


def policies(
    name: Annotated[str | None, typer.Argument(help="One of them alone.", metavar="[NAME]")] = None,
    space: Annotated[
        bool, typer.Option("--space", help="Show what a sweep may set, and within which bounds.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the registered policies and stop rules."""
    from adaeagle.policy import StopRule
    from adaeagle.registry import lookup, names

    chosen = names() if name is None else [name]
    rows: list[dict[str, Any]] = []
    for each in chosen:
        with argument("the registered policy", each):
            factory = lookup(each)
            is_rule = isinstance(factory, type) and issubclass(factory, StopRule)
            kind = "stop rule" if is_rule else "policy"
            rows += search_space(each, factory) if space else [describe(each, factory, kind)]
    if as_json:
        print(json.dumps(rows))
    elif space:
        _print_space(rows)
    else:
        print_table(rows)


def describe(
    name: str, factory: Callable[..., Any], kind: str, num_given: int = 0
) -> dict[str, str]:
    """What a reader wants to know of something registered.

    Args:
        name: it is registered under.
        factory: what builds it.
        kind: what it is.
        num_given: arguments that are no part of a spec, the first ones.
    """
    classes = factory.__mro__[:-1] if isinstance(factory, type) else ()
    has_own = not classes or any("__init__" in vars(each) for each in classes)
    signature = inspect.signature(factory) if has_own else inspect.Signature()
    parameters = list(signature.parameters.values())[num_given:]
    module = inspect.getdoc(sys.modules[factory.__module__]) or ""
    return {
        "name": name,
        "kind": kind,
        "arguments": ", ".join(
            str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters
        ),
        "does": (inspect.getdoc(factory) or "").partition("\n")[0],
        "source": _source(module),
    }


def search_space(name: str, factory: Callable[..., Any]) -> list[dict[str, Any]]:
    """What a sweep may set of a policy or stop rule, an argument a row."""
    parameters = inspect.signature(factory).parameters
    return [
        {
            "name": name,
            "argument": argument,
            "kind": type(dimension).__name__.lower(),
            **asdict(dimension),
            "default": repr(parameters[argument].default),
        }
        for argument, dimension in getattr(factory, "search_space", {}).items()
    ]


def _source(module_doc: str) -> str:
    """The text after `Source:`, up to `Differs from ...` or a blank line."""
    found = re.search(r"^Source: *(.*?)(?=^Differs |\n\s*\n|\Z)", module_doc, re.S | re.M)
    return " ".join(found[1].split()) if found else ""


def print_table(rows: list[dict[str, str]]) -> None:
    """What `describe` gives, a row each."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = 140
    table = Table(box=box.HORIZONTALS, show_lines=True)
    for title in ("name", "kind", "arguments", "does", "source"):
        table.add_column(title, overflow="fold", no_wrap=title in ("name", "kind"))
    for row in rows:
        *texts, source = (escape(text) for text in row.values())
        table.add_row(*texts, _up_to_link(source))
    console.print(table)


def _print_space(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = 140
    table = Table(box=box.HORIZONTALS)
    for title in ("name", "argument", "searched", "default"):
        table.add_column(title, overflow="fold")
    for row in rows:
        cells = row["name"], row["argument"], _bounds(row), row["default"]
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)


def _bounds(row: dict[str, Any]) -> str:
    """A dimension as words."""
    match row["kind"]:
        case "whole" | "real":
            return f"{row['low']} to {row['high']}" + (", by ratio" if row["log"] else "")
        case "choice":
            return ", ".join(map(repr, row["options"]))
        case "tree":
            nodes, depth = row["nodes"]["high"], row["depth"]["high"]
            return f"{', '.join(row['named'])}, or the best of up to {nodes} nodes, {depth} levels"
        case kind:
            return f"any {kind}, where the template says ?"


def _up_to_link(source: str) -> str:
    """A source's first work; the rest is in the module and in `--json`."""
    found = re.match(r".*?https?://[^\s,;:()]+", source)
    if found is None:
        return source
    shown = found[0].rstrip(".")
    return shown + ")" * (shown.count("(") - shown.count(")"))
