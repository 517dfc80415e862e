"""A leaderboard as a terminal table."""

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from experiments.confirm.leaderboard import ALONE, AS_PUBLISHED, OVER_FITTED


def leaderboard_table(found: dict[str, Any]) -> Group:
    """Families, the fastest live first: how fast they are, and what tuning has won.

    Args:
        found: the whole of `results.json`.
    """
    speeds, gains = _table(), _table()
    speeds.add_column("tuned", overflow="fold", min_width=32)
    for title in ("live", "95 % interval", "replayed", "headroom\nrecovered"):
        speeds.add_column(title, justify="right", no_wrap=True)
    for title in ("over\npublished", "95 % interval", "replayed"):
        gains.add_column(title, justify="right", no_wrap=True)
    gains.add_column("verdict")
    for number, entry in enumerate(found["families"], start=1):
        tuned, gain = entry["tuned"], entry["gain"]
        speeds.add_row(
            str(number),
            tuned["policy"],
            f"{tuned['speedup']:.2f}x",
            interval(tuned["speedup_ci95"]),
            f"{tuned['replayed_speedup']:.2f}x",
            share(entry["headroom"]["recovered_live"]),
        )
        gains.add_row(
            str(number),
            "-" if gain is None else f"{gain['live']:.3f}",
            "-" if gain is None else interval(gain["live_ci95"]),
            "-" if gain is None else f"{gain['replayed']:.3f}",
            verdict(entry),
        )
    title = f"live on {found['num_prompts']} prompts of the test split, in turns"
    return Group(
        Text(title, style="italic"), speeds, Text("tuned over published", style="italic"), gains
    )


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right")
    return table


def interval(ci95: tuple[float, float] | None) -> str:
    """From and to."""
    return "-" if ci95 is None else f"{ci95[0]:.2f} to {ci95[1]:.2f}"


def share(value: float | None) -> str:
    """Of headroom."""
    return "-" if value is None else f"{value:+.0%}"


def verdict(entry: dict[str, Any]) -> str:
    """The verdict on a family, as text."""
    text: str = entry["verdict"]
    if text in (AS_PUBLISHED, ALONE) or entry["is_sure"]:
        return text
    if text == OVER_FITTED:
        return "over-fitted, within noise"
    return "won, within noise"
