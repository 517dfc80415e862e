"""A leaderboard as one HTML page that needs nothing else."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from experiments.confirm import pictures
from experiments.confirm.leaderboard import ALONE, AS_PUBLISHED, OVER_FITTED
from experiments.confirm.tables import interval, share, verdict
from experiments.report.figures import Picture, svg
from experiments.report.page import environment, machine, own

EN_DASH, MINUS, TIMES = "\u2013", "\u2212", "\u00d7"


@dataclass(frozen=True, slots=True)
class Page:
    """What a page tells."""

    found: dict[str, Any]  # the whole of `results.json`
    stages: Sequence[Mapping[str, str]] = ()  # of a study: name, what was done, seconds, remark
    sweeps: Mapping[str, Sequence[Picture]] = field(default_factory=dict)  # by family


def render(page: Page) -> str:
    """The whole page."""
    found = page.found
    highest = max(
        value
        for entry in found["families"]
        for arm in (entry["tuned"], entry["published"])
        if arm is not None
        for value in (arm["speedup"], arm["replayed_speedup"], *(arm["speedup_ci95"] or ()))
    )
    drawn = {
        "Live speed-up of every family, tuned and published": pictures.tuned_and_published(found),
        "Speed-up as replayed against speed-up measured live": pictures.replayed_and_live(found),
    }
    return (
        environment()
        .get_template("confirm.html")
        .render(
            page=page,
            found=found,
            rows=[_row(entry, highest) for entry in found["families"]],
            one=100 / highest,
            references=[_reference(each) for each in found["best_fixed"]],
            tasks=_tasks(found["families"]),
            task_rows=[_task_row(entry) for entry in found["families"]],
            notes=_notes(found),
            about=_about(found),
            where=machine(found["hardware"]),
            pictures=[Picture(alt, svg(figure)) for alt, figure in drawn.items()],
            style=Markup(own("report.css") + own("confirm.css")),
        )
    )


def png_picture(alt: str, content: bytes) -> Picture:
    """A picture that lies in a file."""
    return Picture(alt, "data:image/png;base64," + base64.b64encode(content).decode("ascii"))


def _row(entry: dict[str, Any], highest: float) -> dict[str, Any]:
    tuned, published, gain = entry["tuned"], entry["published"], entry["gain"]
    headroom = entry["headroom"]
    return {
        "family": pictures.short(entry["family"]),
        "tuned": tuned["policy"],
        "published": _published(entry),
        "live": _times(tuned["speedup"]),
        "interval": _interval(tuned["speedup_ci95"]),
        "line": _line(tuned, highest),
        "replayed": _times(tuned["replayed_speedup"]),
        "published_live": "" if published is None else _times(published["speedup"]),
        "published_interval": "" if published is None else _interval(published["speedup_ci95"]),
        "published_line": None if published is None else _line(published, highest),
        "gain": "" if gain is None else f"{gain['live']:.3f}",
        "gain_interval": "" if gain is None else _interval(gain["live_ci95"]),
        "gain_replayed": "" if gain is None else f"{gain['replayed']:.3f}",
        "gain_tune": "" if gain is None else f"{gain['replayed_tune']:.3f}",
        "recovered_live": _share(headroom["recovered_live"]),
        "recovered_replayed": _share(headroom["recovered_replayed"]),
        "shape": headroom["family"],
        "verdict": verdict(entry),
        "is_over_fitted": entry["verdict"] == OVER_FITTED,
        "why": _why(entry),
        "trials": entry["num_trials"],
    }


def _published(entry: dict[str, Any]) -> str:
    if entry["verdict"] == AS_PUBLISHED:
        return "as published"
    if entry["verdict"] == ALONE:
        return "nothing was published that could be replayed"
    return f"published: {entry['published']['policy']}"


def _why(entry: dict[str, Any]) -> str:
    """Whether texts or seconds misled a setting that over-fitted."""
    if entry["verdict"] != OVER_FITTED:
        return ""
    if entry["gain"]["replayed"] < 1:
        return "to the tune split's texts: in replay it is slower on these prompts too"
    return "to the cost table: in replay it is faster on these prompts"


def _line(arm: dict[str, Any], highest: float) -> dict[str, float]:
    """A speed-up on a line from 0 to the highest of all, in percent of its length."""
    low, high = arm["speedup_ci95"] or (arm["speedup"], arm["speedup"])
    values = {"low": low, "at": arm["speedup"], "high": high, "replayed": arm["replayed_speedup"]}
    return {name: 100 * value / highest for name, value in values.items()}


def _reference(each: dict[str, Any]) -> dict[str, str]:
    return {
        "family": each["family"],
        "policy": each["policy"],
        "live": _times(each["speedup"]),
        "interval": _interval(each["speedup_ci95"]),
        "headroom": f"{each['headroom']:+.1%}".replace("-", MINUS),
    }


def _tasks(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    tasks = entries[0]["tasks"]
    return [{"name": name or "-", "num_prompts": of["num_prompts"]} for name, of in tasks.items()]


def _task_row(entry: dict[str, Any]) -> dict[str, Any]:
    cells = []
    for task in entry["tasks"].values():
        tuned, gain = task["tuned"], task["gain"]
        cells.append(
            {
                "tuned": _times(tuned["ratio"]),
                "interval": _interval(tuned["ci95"]),
                "gain": "" if gain is None else f"{gain['ratio']:.2f}",
                "gain_interval": "" if gain is None else _interval(gain["ci95"]),
                "is_slower": gain is not None and gain["ratio"] < 1,
            }
        )
    return {"family": pictures.short(entry["family"]), "cells": cells}


def _notes(found: dict[str, Any]) -> list[str]:
    """What must be said beside the numbers."""
    notes = []
    if found["num_prompts"] < found["num_test_prompts"]:
        notes.append(
            f"Time was up after {found['num_prompts']} of {found['num_test_prompts']} prompts of "
            "the test split; replayed speed-ups are of the same prompts, oracles of all."
        )
    if found["num_over_fitted"]:
        notes.append(
            f"{found['num_over_fitted']} of {len(found['families'])} families over-fitted: live, "
            "the setting that was the best on the tune split is slower than the published one."
        )
    parted = found["num_divergences"]
    if parted:
        notes.append(
            f"{parted} answers part from plain decoding's: see divergences in live/results.json."
        )
    else:
        notes.append("All answers equal plain decoding's, token for token.")
    theirs, ours = found["cost_about"].get("hardware"), found["hardware"]
    if theirs is not None and theirs.get("cpu") != ours.get("cpu"):
        notes.append(f"The cost table was measured on another machine: {machine(theirs)}.")
    return notes


def _about(found: dict[str, Any]) -> list[tuple[str, str]]:
    git = found["git"]
    commit = "" if git is None else git["commit"][:12] + (", changed since" if git["dirty"] else "")
    facts: Sequence[tuple[str, Any]] = (
        ("folder", found["out"]),
        ("sweeps", ", ".join(found["sweeps"])),
        ("trace", found["trace"]),
        ("prompts, SHA-256", found["prompts_sha256"]),
        ("precision", found["config"]["dtype"]),
        ("hardware", ", ".join(f"{key} {value}" for key, value in found["hardware"].items())),
        ("versions", ", ".join(f"{key} {value}" for key, value in found["versions"].items())),
        ("commit", commit),
    )
    return [(name, str(value)) for name, value in facts if value]


def _times(value: float) -> str:
    return f"{value:.2f}{TIMES}"


def _interval(ci95: tuple[float, float] | None) -> str:
    return "" if ci95 is None else interval(ci95).replace(" to ", EN_DASH)


def _share(value: float | None) -> str:
    return "" if value is None else share(value).replace("-", MINUS)
