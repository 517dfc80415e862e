"""A leaderboard as one HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adaeagle.bench.ranking import LEVEL
from experiments.confirm import pictures
from experiments.confirm.leaderboard import ALONE, AS_PUBLISHED, OVER_FITTED
from experiments.report.pages import Picture, about, machine, picture, render_page


@dataclass(frozen=True, slots=True)
class Page:
    """What a page shows."""

    found: dict[str, Any]  # the whole of `results.json`
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of a study
    sweeps: Mapping[str, Sequence[Picture]] = field(default_factory=dict)  # by family


def render(page: Page) -> str:
    """The whole page."""
    found = page.found
    drawn = {
        "Live speed-up of every family, tuned and published": pictures.tuned_and_published(found),
        "Speed-up as replayed against speed-up measured live": pictures.replayed_and_live(found),
    }
    return render_page(
        "confirm.html",
        styles=["report.css", "confirm.css"],
        scripts=["tables.js"],
        page=page,
        found=found,
        level=LEVEL,
        highest=max(
            value
            for entry in found["families"]
            for arm in (entry["tuned"], entry["published"])
            if arm is not None
            for value in (arm["speedup"], arm["replayed_speedup"], *(arm["speedup_ci95"] or ()))
        ),
        short=pictures.short,
        published=_published,
        why=_why,
        about=about(
            found,
            folder=found["out"],
            sweeps=", ".join(found["sweeps"]),
            trace=found["trace"],
            precision=found["config"]["dtype"],
        ),
        where=machine(found["hardware"]),
        pictures=[picture(alt, figure) for alt, figure in drawn.items()],
    )


def _published(entry: dict[str, Any]) -> str:
    """Beside the tuned setting, where there is no other one."""
    if entry["verdict"] == AS_PUBLISHED:
        return "as published"
    return "nothing was published that could be replayed" if entry["verdict"] == ALONE else ""


def _why(entry: dict[str, Any]) -> str:
    """Whether texts or seconds misled a setting that over-fitted."""
    if entry["verdict"] != OVER_FITTED:
        return ""
    if entry["gain"]["replayed"] < 1:
        return "to the tune split's texts: in replay it is slower on these prompts too"
    return "to the cost table: in replay it is faster on these prompts"
