"""A predictor's judgement as tables, a row for each task."""

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

Column = tuple[str, str, Callable[[Any], str]]
"""Its title, the key it shows, and how."""

ACCEPTANCE: tuple[Column, ...] = (
    ("tokens", "num", "{:,}".format),
    ("accepted", "accepted", "{:.1%}".format),
    ("as told", "told", "{:.1%}".format),
    ("Brier", "brier", "{:.3f}".format),
    ("ECE", "ece", "{:.3f}".format),
    ("AUC", "auc", "{:.3f}".format),
)
LENGTHS: tuple[Column, ...] = (
    ("positions", "num", "{:,}".format),
    ("true", "true", "{:.2f}".format),
    ("told", "told", "{:.2f}".format),
    ("mean error", "error", "{:.2f}".format),
    ("of the best constant", "constant_error", "{:.2f}".format),
    ("correlation", "correlation", "{:.2f}".format),
)


def acceptance_table(found: dict[str, Any], by: str) -> Group:
    """How true probabilities are, over all, for the draft's own confidence, and for each task."""
    rows = [("all", found), ("the draft's own confidence", found["draft_confidence"])]
    rows += [(each["task"] or "-", each) for each in found["by_task"]]
    return _table(f"acceptance of drafted tokens, by {by}", ACCEPTANCE, rows)


def length_table(found: dict[str, Any], by: str) -> Group:
    """How right lengths are, over all and for each task."""
    rows = [("all", found), *((each["task"] or "-", each) for each in found["by_task"])]
    return _table(f"lengths told before drafting, by {by}", LENGTHS, rows)


def _table(
    title: str, columns: Sequence[Column], rows: Sequence[tuple[str, dict[str, Any]]]
) -> Group:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=28)
    for name, _, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in rows:
        shown = ("-" if row[key] is None else form(row[key]) for _, key, form in columns)
        table.add_row(name, *shown)
    return Group(Text(title, style="italic"), table)
