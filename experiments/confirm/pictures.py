"""A leaderboard as pictures: tuned against published, replay against live."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.views.plot_style import COLOURS, tidy

TUNED, PUBLISHED, GREY = COLOURS[4], COLOURS[1], "0.6"
KEY = "replayed_speedup"
TOLERANCE = 0.1
"""Replay is to predict live speed-ups this well."""


def tuned_and_published(found: dict[str, Any]) -> Figure:
    """Live speed-ups of every family with their intervals, tuned above published."""
    entries = found["families"]
    figure = Figure(figsize=(8, 1.3 + 0.42 * len(entries)), layout="constrained")
    axes = figure.subplots()
    for row, entry in enumerate(entries):
        _interval(axes, row - 0.14, entry["tuned"], TUNED, "o")
        published = entry["published"]
        if published is not None and entry["verdict"] != "as published":
            _interval(axes, row + 0.14, published, PUBLISHED, "s")
    for colour, mark, name in ((TUNED, "o", "tuned"), (PUBLISHED, "s", "published")):
        axes.plot([], [], mark, color=colour, markersize=5, label=name)
    axes.axvline(1, color="0.3", linestyle="--", linewidth=1)
    for fixed in found["best_fixed"]:
        axes.axvline(fixed["speedup"], color=GREY, linestyle=":", linewidth=1)
    axes.plot([], [], color=GREY, linestyle=":", label="best fixed drafts, chosen on tune")
    axes.set_yticks(range(len(entries)), [short(entry["family"]) for entry in entries], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("live speed-up over plain decoding, 95 % interval over prompts")
    axes.grid(axis="x", color="0.9")
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _interval(axes: Axes, row: float, arm: dict[str, Any], colour: str, mark: str) -> None:
    if arm["speedup_ci95"] is not None:
        axes.plot(arm["speedup_ci95"], [row, row], color=colour, linewidth=1.6, alpha=0.6)
    axes.plot([arm["speedup"]], [row], mark, color=colour, markersize=5)


def replayed_and_live(found: dict[str, Any]) -> Figure:
    """Every policy's speed-up as replayed and as measured; the band is 10 % wide on either side."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    arms = {
        kind: [entry[kind] for entry in found["families"] if entry[kind] is not None]
        for kind in ("published", "tuned")
    }
    speeds = [arm[key] for own in arms.values() for arm in own for key in ("speedup", KEY)]
    low, high = 0.95 * min(speeds), 1.05 * max(speeds)
    ends = (low, high)
    axes.fill_between(
        ends,
        [(1 - TOLERANCE) * end for end in ends],
        [(1 + TOLERANCE) * end for end in ends],
        color="0.93",
        linewidth=0,
    )
    axes.plot(ends, ends, color=GREY, linewidth=1)
    for (kind, own), colour, mark in zip(arms.items(), (PUBLISHED, TUNED), "so", strict=True):
        axes.plot(
            [arm["speedup"] for arm in own],
            [arm[KEY] for arm in own],
            mark,
            color=colour,
            markersize=5,
            alpha=0.8,
            label=kind,
        )
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_xlabel("speed-up measured live")
    axes.set_ylabel("speed-up replayed, same prompts")
    axes.grid(color="0.9")
    tidy(axes)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def short(family: str) -> str:
    """A template without the paths in it."""
    name, _, rest = family.partition("(")
    arguments = [part for part in rest.rstrip(")").split(", ") if part and "/" not in part]
    return f"{name}({', '.join(arguments)})" if arguments else name
