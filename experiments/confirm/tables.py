"""A leaderboard as terminal tables."""

from typing import Any

from rich.console import Group
from rich.text import Text

from experiments.views.sheet import Cell, Sheet, interval, share


def leaderboard_table(found: dict[str, Any]) -> Group:
    """Families, the fastest live first: how fast they are, and what tuning has won.

    Args:
        found: the whole of `results.json`.
    """
    rows = found["families"]

    def gain(key: str) -> Cell:
        return lambda entry: "-" if entry["gain"] is None else f"{entry['gain'][key]:.3f}"

    speeds = Sheet(
        f"live on {found['num_prompts']} prompts of the test split, in turns",
        rows,
        {"tuned": lambda entry: entry["tuned"]["policy"]},
        {
            "live": lambda entry: f"{entry['tuned']['speedup']:.2f}x",
            "95 % interval": lambda entry: interval(entry["tuned"]["speedup_ci95"]),
            "replayed": lambda entry: f"{entry['tuned']['replayed_speedup']:.2f}x",
            "headroom\nrecovered": lambda entry: share(entry["headroom"]["recovered_live"]),
        },
        is_numbered=True,
    )
    gains = Sheet(
        "tuned over published, tokens a second",
        rows,
        {"family": lambda entry: entry["family"], "verdict": lambda entry: entry["verdict"]},
        {
            "live": gain("live"),
            "95 % interval": lambda entry: interval((entry["gain"] or {}).get("live_ci95")),
            "replayed": gain("replayed"),
        },
        is_numbered=True,
    )
    return Group(speeds, gains, *(Text(line) for line in found["notes"]))
