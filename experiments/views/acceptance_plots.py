"""Acceptance as pictures: by depth, and against the draft model's confidence."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adaeagle.bench.records import PromptRecord
from adaeagle.bench.results import summarize
from adaeagle.bench.runner import BASELINE
from experiments.views.plot_style import colour_of, label, mark_of, tidy

WIDTH = 0.05  # of a bin of confidence


def acceptance_by_depth(records: Sequence[PromptRecord]) -> Figure:
    """A line a drafting policy: joint acceptance at the left, conditional at the right."""
    figure = Figure(figsize=(8, 4.2 + 0.2 * len(records[0].arms)), layout="constrained")
    joint, conditional = figure.subplots(1, 2, sharey=True)
    for place, arm in enumerate(summarize(records)):
        if arm.policy == BASELINE and len(records[0].arms) > 1:
            continue
        given = [math.nan if s is None else s for s in arm.conditional_acceptance_by_depth]
        for axes, shares in ((joint, arm.acceptance_by_depth), (conditional, given)):
            axes.plot(
                range(1, len(shares) + 1),
                [100 * share for share in shares],
                color=colour_of(place),
                marker=mark_of(place),
                markersize=5,
                linewidth=1.4,
                label=arm.policy if axes is joint else None,
            )
    joint.set_title("joint: so many tokens or more accepted", fontsize=10)
    conditional.set_title("conditional: where all before were accepted", fontsize=10)
    joint.set_ylabel("share of the rounds that drafted so deep, %")
    for axes in (joint, conditional):
        axes.set_xlabel("depth of the drafted token")
        axes.set_ylim(0, 103)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.grid(color="0.9")
        tidy(axes)
    figure.suptitle("Acceptance by depth", fontsize=11)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    return figure


def calibration(arms: Sequence[dict[str, Any]], names: Sequence[str]) -> Figure:
    """For every policy, acceptance against draft confidence, above how many tokens that is.

    Args:
        arms: see `calibration.results`.
        names: of all policies compared, for their colours.
    """
    num_columns = min(3, len(arms))
    num_rows = math.ceil(len(arms) / num_columns)
    figure = Figure(figsize=(3.3 * num_columns, 0.7 + 3.4 * num_rows), layout="constrained")
    heights = [3, 1] * num_rows
    most = max((found["num_tested"] for arm in arms for found in arm["bins"]), default=1)
    panels = figure.subplots(
        2 * num_rows, num_columns, squeeze=False, sharex=True, sharey="row", height_ratios=heights
    )
    for place in range(num_rows * num_columns):
        row, column = divmod(place, num_columns)
        rates, counts = panels[2 * row, column], panels[2 * row + 1, column]
        if place >= len(arms):
            rates.set_visible(False)
            counts.set_visible(False)
            continue
        arm = arms[place]
        colour = colour_of(names.index(arm["policy"]))
        filled = arm["bins"]
        at = [100 * found["confidence"] for found in filled]
        rates.plot((0, 100), (0, 100), color="0.6", linestyle="--", linewidth=1)
        rates.plot(
            at, [100 * found["acceptance"] for found in filled], color=colour, marker="o", ms=4
        )
        middles = [100 * (found["low"] + found["high"]) / 2 for found in filled]
        counts.bar(middles, [found["num_tested"] for found in filled], 90 * WIDTH, color=colour)
        counts.set_yscale("log")
        counts.set_ylim(0.7, 1.5 * most)  # one token is a bar too
        error = arm["calibration_error"]
        distance = "nothing tested" if error is None else f"mean distance {100 * error:.1f} %"
        rates.set_title(f"{label(arm['policy'])}\n{distance}", fontsize=9)
        for axes in (rates, counts):
            axes.set_xlim(0, 100)
            axes.grid(color="0.9")
            tidy(axes)
        if column == 0:
            rates.set_ylabel("accepted, %", fontsize=9)
            counts.set_ylabel("tokens", fontsize=9)
        counts.tick_params(labelbottom=True)
    figure.suptitle("Is the draft model as sure as it is right?", fontsize=11)
    figure.supxlabel("probability the draft model gave its token, %", fontsize=10)
    return figure
