"""How good a predictor is, as tables with a row for each task."""

from typing import Any

from rich.console import RenderableType

from experiments.views.sheet import Cell, Sheet

ACCEPTANCE = {
    "tokens": ("num", "{:,}"),
    "accepted": ("accepted", "{:.1%}"),
    "predicted": ("told", "{:.1%}"),
    "Brier": ("brier", "{:.3f}"),
    "ECE": ("ece", "{:.3f}"),
    "AUC": ("auc", "{:.3f}"),
}
LENGTHS = {
    "positions": ("num", "{:,}"),
    "true": ("true", "{:.2f}"),
    "predicted": ("told", "{:.2f}"),
    "mean\nerror": ("error", "{:.2f}"),
    "of the best\nconstant": ("constant_error", "{:.2f}"),
    "correlation": ("correlation", "{:.2f}"),
}


def acceptance_table(found: dict[str, Any], by: str) -> RenderableType:
    """How true probabilities are, over all, for the draft's own confidence, and for each task."""
    own = {"task": "the draft's own confidence", **found["draft_confidence"]}
    return _table(f"acceptance of drafted tokens, by {by}", ACCEPTANCE, found, [own])


def length_table(found: dict[str, Any], by: str) -> RenderableType:
    """How right lengths are, over all and for each task."""
    return _table(f"lengths predicted before drafting, by {by}", LENGTHS, found, [])


def _table(
    title: str,
    columns: dict[str, tuple[str, str]],
    found: dict[str, Any],
    others: list[dict[str, Any]],
) -> RenderableType:
    def cell(key: str, form: str) -> Cell:
        return lambda row: "-" if row[key] is None else form.format(row[key])

    rows = [{"task": "all", **found}, *others, *found["by_task"]]
    numbers = {name: cell(key, form) for name, (key, form) in columns.items()}
    return Sheet(title, rows, {"": lambda row: row["task"] or "-"}, numbers)
