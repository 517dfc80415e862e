"""What a comparison measured, as pictures."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adaeagle.bench.records import PromptRecord
from adaeagle.bench.results import ArmResult, grouped, num_rounds, summarize
from adaeagle.bench.run_folder import RunFolder
from adaeagle.bench.runner import BASELINE
from experiments.views.acceptance_plots import acceptance_by_depth
from experiments.views.plot_style import colour_of, label, legend, mark_of, panels, png, tidy

PARTS = {"draft": "#56B4E9", "verify": "#0072B2", "policy": "#E69F00", "other": "#999999"}


def draw_all(records: Sequence[PromptRecord], by: str, folder: RunFolder) -> list[Path]:
    """Writes every picture into the run's folder.

    Args:
        records: what was measured.
        by: `source` or `category`, whichever prompts are told apart by.
        folder: where to.
    """
    pictures = {
        "speedup.png": speedup(records),
        "accepted_length.png": accepted_length(records),
        "time_per_round.png": time_per_round(records),
        "acceptance_by_depth.png": acceptance_by_depth(records),
        f"tokens_per_round_by_{by}.png": tokens_per_round(records, by),
    }
    return [folder.write(name, png(figure)) for name, figure in pictures.items()]


def _fastest_first(records: Sequence[PromptRecord]) -> list[tuple[int, ArmResult]]:
    """Every policy with its place in the run, which decides its colour."""
    return sorted(enumerate(summarize(records)), key=lambda one: -one[1].speedup)


def _rows(axes: Axes, names: Sequence[str], at_right: Sequence[str] = ()) -> None:
    """One row a name, the first on top; and a column of texts where no bar reaches."""
    axes.set_yticks(range(len(names)), [label(name) for name in names], fontsize=9)
    axes.invert_yaxis()
    for row, text in enumerate(at_right):
        place = axes.get_yaxis_transform()
        axes.text(1.01, row, text, transform=place, va="center", fontsize=9)


def speedup(records: Sequence[PromptRecord]) -> Figure:
    """Bars of speed-up against plain decoding, with their intervals over prompts."""
    arms = _fastest_first(records)
    figure = Figure(figsize=(8, 1.4 + 0.52 * len(arms)), layout="constrained")
    axes = figure.subplots()
    for row, (place, arm) in enumerate(arms):
        axes.barh(row, arm.speedup, height=0.62, color=colour_of(place), alpha=0.85)
        if arm.speedup_ci95 is not None and arm.policy != BASELINE:
            axes.plot(arm.speedup_ci95, (row, row), color="0.25", linewidth=1.6, marker="|")
    axes.axvline(1.0, color="0.3", linestyle="--", linewidth=1)
    _rows(axes, [arm.policy for _, arm in arms], [f"{arm.speedup:.2f}x" for _, arm in arms])
    across = "tokens per second, as a multiple of plain decoding (dashed line)"
    tidy(axes, "x", xlim=(0, None), xlabel=across)
    axes.set_title(f"Speed-up, with 95 % intervals over {len(records)} prompts", fontsize=11)
    return figure


def accepted_length(records: Sequence[PromptRecord]) -> Figure:
    """For every drafting policy, how often a round accepted so many drafted tokens."""
    everything = list(records[0].arms)
    names = [name for name in everything if name != BASELINE] or [BASELINE]
    counts = {
        name: Counter(count for record in records for count in record.arms[name].num_accepted)
        for name in names
    }
    lengths = range(max(max(found, default=0) for found in counts.values()) + 1)
    figure, axes_of = panels(len(names), 3.4, 2.3, sharex=True, sharey=True)
    for axes, name in zip(axes_of, names, strict=True):
        total = sum(counts[name].values()) or 1
        shares = [100 * counts[name][length] / total for length in lengths]
        axes.bar(lengths, shares, color=colour_of(everything.index(name)), alpha=0.85)
        mean = sum(length * counts[name][length] for length in lengths) / total
        axes.set_title(f"{label(name)}\nmean {mean:.2f}", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.tick_params(labelbottom=True)
        tidy(axes, "y")
    figure.suptitle("How much of a draft is accepted", fontsize=11)
    figure.supxlabel("drafted tokens accepted in a round", fontsize=10)
    figure.supylabel("share of rounds, %", fontsize=10)
    return figure


def time_per_round(records: Sequence[PromptRecord]) -> Figure:
    """Stacked bars of what an average round's milliseconds went to."""
    arms = [arm for _, arm in _fastest_first(records)]
    figure = Figure(figsize=(8, 1.6 + 0.52 * len(arms)), layout="constrained")
    axes = figure.subplots()
    ends = [0.0] * len(arms)
    for part, colour in PARTS.items():
        spent = [
            1000 * getattr(arm, f"{part}_seconds") / num_rounds(records, arm.policy) for arm in arms
        ]
        axes.barh(range(len(arms)), spent, left=ends, height=0.62, color=colour, label=part)
        ends = [end + more for end, more in zip(ends, spent, strict=True)]
    notes = [
        f"{end:.1f} ms for\n{arm.tokens_per_round:.2f} tokens"
        for end, arm in zip(ends, arms, strict=True)
    ]
    _rows(axes, [arm.policy for arm in arms], notes)
    tidy(axes, "x", xlabel="milliseconds of an average round, prefill left out")
    axes.set_title("Where the time of a round goes, the fastest policy on top", fontsize=11)
    legend(figure, len(PARTS))
    return figure


def tokens_per_round(records: Sequence[PromptRecord], by: str) -> Figure:
    """A row for each source or category, a mark for each drafting policy."""
    groups = {group: summarize(members) for group, members in grouped(records, by).items()}

    def mean(group: str) -> float:
        return sum(arm.tokens_per_round for arm in groups[group]) / len(groups[group])

    order = sorted(groups, key=mean, reverse=True)
    names = list(records[0].arms)
    figure = Figure(figsize=(8, 1.4 + 0.5 * len(order) + 0.22 * len(names)), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        if name == BASELINE and len(names) > 1:  # always 1: the dashed line
            continue
        # Equal values are moved apart a little, so that no mark hides another.
        shift = 0.5 * (place / len(names) - 0.5)
        axes.plot(
            [groups[group][place].tokens_per_round for group in order],
            [row + shift for row in range(len(order))],
            linestyle="",
            marker=mark_of(place),
            color=colour_of(place),
            markersize=7,
            label=label(name),
        )
    _rows(axes, [group or "-" for group in order])
    axes.axvline(1.0, color="0.3", linestyle="--", linewidth=1)
    tidy(axes, "x", ylim=(len(order) - 0.5, -0.5), xlim=(0.8, None))
    axes.set_xlabel("tokens emitted a round (dashed line: plain decoding)")
    axes.set_title(f"Tokens a round by {by}, the easiest text on top", fontsize=11)
    legend(figure, 2)
    return figure
