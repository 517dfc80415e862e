"""Policies against a chosen one, prompt by prompt, as a terminal table."""

from typing import Any

from rich.console import RenderableType

from experiments.views.sheet import Sheet, interval


def ranking_table(found: dict[str, Any]) -> RenderableType:
    """How many times as fast each policy is, and how likely a difference is chance.

    Args:
        found: what `adaeagle.bench.ranking.ranking` gave.
    """

    def p_value(row: Any) -> str:
        value = row[1]["p_adjusted"]
        return "-" if value is None else f"{value:.3f}"

    return Sheet(
        f"against {found['baseline']}, on the same prompts",
        list(found["arms"].items()),
        {"policy": lambda row: row[0]},
        {
            "times\nas fast": lambda row: f"{row[1]['ratio']:.3f}",
            "95 % interval": lambda row: interval(row[1]["ci95"]),
            "p, Holm": p_value,
        },
    )
