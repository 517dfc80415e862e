"""Acceptance as pictures: by depth, and against the draft model's confidence."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adaeagle.bench.records import PromptRecord
from adaeagle.bench.results import summarize
from adaeagle.bench.runner import BASELINE
from experiments.views.plot_style import colour_of, label, legend, mark_of, tidy

WIDTH = 0.05  # of a bin of confidence


def acceptance_by_depth(records: Sequence[PromptRecord]) -> Figure:
    """A line a drafting policy: joint and conditional acceptance, each above its rounds."""
    names = list(records[0].arms)
    figure = Figure(figsize=(8, 5.6 + 0.2 * len(names)), layout="constrained")
    rates, counts = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(2, 1))
    for place, arm in enumerate(summarize(records)):
        if arm.policy == BASELINE and len(names) > 1:
            continue
        joint = arm.acceptance_by_depth
        conditional = [math.nan if s is None else s for s in arm.conditional_acceptance_by_depth]
        depths = range(1, len(joint) + 1)
        rounds = [
            (depth, accepted)
            for record in records
            for depth, accepted in zip(
                record.arms[arm.policy].depth, record.arms[arm.policy].num_accepted, strict=True
            )
        ]
        drafted = [sum(depth >= d for depth, _ in rounds) for d in depths]
        reached = [sum(depth >= d and n >= d - 1 for depth, n in rounds) for d in depths]
        look: dict[str, Any] = {
            "color": colour_of(place),
            "marker": mark_of(place),
            "markersize": 5,
            "linewidth": 1.4,
        }
        rates[0].plot(depths, [100 * rate for rate in joint], label=label(arm.policy), **look)
        rates[1].plot(depths, [100 * rate for rate in conditional], **look)
        counts[0].plot(depths, drafted, **look)
        counts[1].plot(depths, reached, **look)
    tidy(rates[0], ylim=(0, 103), ylabel="accepted, % of the rounds below")
    tidy(rates[1])
    rates[0].set_title("joint: so many tokens or more accepted", fontsize=10)
    rates[1].set_title("conditional: where all before were accepted", fontsize=10)
    tidy(counts[0], ylim=(0, None), ylabel="rounds", xlabel="depth of the drafted token")
    tidy(counts[1], xlabel="depth of the drafted token")
    counts[0].set_title("rounds that drafted so deep", fontsize=10)
    counts[1].set_title("of them, those that accepted all before", fontsize=10)
    counts[0].xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    figure.suptitle("Acceptance by depth", fontsize=11)
    legend(figure, 2)
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
    axes_of = figure.subplots(
        2 * num_rows, num_columns, squeeze=False, sharex=True, sharey="row", height_ratios=heights
    )
    for place in range(num_rows * num_columns):
        row, column = divmod(place, num_columns)
        rates, counts = axes_of[2 * row, column], axes_of[2 * row + 1, column]
        if place >= len(arms):
            rates.set_visible(False)
            counts.set_visible(False)
            continue
        arm = arms[place]
        colour = colour_of(names.index(arm["policy"]))
        bins = arm["bins"]
        rates.plot((0, 100), (0, 100), color="0.6", linestyle="--", linewidth=1)
        rates.plot(
            [100 * each["confidence"] for each in bins],
            [100 * each["acceptance"] for each in bins],
            color=colour,
            marker="o",
            ms=4,
        )
        middles = [50 * (each["low"] + each["high"]) for each in bins]
        counts.bar(middles, [each["num_tested"] for each in bins], 90 * WIDTH, color=colour)
        error = arm["calibration_error"]
        distance = "nothing tested" if error is None else f"mean distance {100 * error:.1f} %"
        rates.set_title(f"{label(arm['policy'])}\n{distance}", fontsize=9)
        tidy(rates, xlim=(0, 100))
        tidy(counts, yscale="log", ylim=(0.7, 1.5 * most))  # one token is a bar too
        if column == 0:
            rates.set_ylabel("accepted, %", fontsize=9)
            counts.set_ylabel("tokens", fontsize=9)
        counts.tick_params(labelbottom=True)
    figure.suptitle("Is the draft model as sure as it is right?", fontsize=11)
    figure.supxlabel("probability the draft model gave its token, %", fontsize=10)
    return figure
