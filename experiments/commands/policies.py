"""`adaeagle policies`: what is registered, with arguments and sources."""

import inspect
import json
import re
import sys
from collections.abc import Callable
from typing import Any

from experiments.commands import options
from experiments.commands.failure import argument

EXAMPLE = """Example:

adaeagle policies

A name with arguments makes a SPEC, and a stop rule goes into any shape:
"eagle2(depth=6, width=4, nodes=24, stop=confidence(threshold=0.2))"."""


def policies(as_json: options.Json = False) -> None:
    """List the registered policies and stop rules."""
    from adaeagle.registry import lookup, names

    rows = []
    for name in names():
        with argument("the registered policy", name):
            rows.append(describe(name, lookup(name)))
    if as_json:
        print(json.dumps(rows))
    else:
        _print_table(rows)


def describe(name: str, factory: Callable[..., Any]) -> dict[str, str]:
    """What a reader wants to know of one registered policy or stop rule."""
    from adaeagle.policy import StopRule

    is_rule = isinstance(factory, type) and issubclass(factory, StopRule)
    parameters = inspect.signature(factory).parameters.values()
    module = inspect.getdoc(sys.modules[factory.__module__]) or ""
    return {
        "name": name,
        "kind": "stop rule" if is_rule else "policy",
        "arguments": ", ".join(
            str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters
        ),
        "does": (inspect.getdoc(factory) or "").partition("\n")[0],
        "source": _source(module),
    }


def _source(module_doc: str) -> str:
    """The text after `Source:`, up to `Differs from ...` or a blank line."""
    found = re.search(r"^Source: *(.*?)(?=^Differs |\n\s*\n|\Z)", module_doc, re.S | re.M)
    return " ".join(found[1].split()) if found else ""


def _print_table(rows: list[dict[str, str]]) -> None:
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


def _up_to_link(source: str) -> str:
    """A source's first work; the rest is in the module and in `--json`."""
    found = re.match(r".*?https?://[^\s,;:()]+", source)
    if found is None:
        return source
    shown = found[0].rstrip(".")
    return shown + ")" * (shown.count("(") - shown.count(")"))
