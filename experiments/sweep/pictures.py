"""A study as pictures: how it went, what its parameters did, speed against nodes."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from experiments.sweep.report import Tried, fastest, pareto_front, whole
from experiments.views.plot_style import COLOURS, colour_of, label, legend, mark_of, panels, tidy

GREY = "0.75"
MOST_PANELS = 12


def history(trials: Sequence[Tried], templates: Sequence[str], plain: float) -> Figure:
    """Tokens a second of every trial in turn, and of the best so far."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    numbers = [one.number for one in trials]
    _points(axes, trials, templates, numbers, plain)
    best, so_far = 0.0, []
    for one in trials:
        best = max(best, one.speed if one.result.judged_on is None else 0.0)
        so_far.append(best)
    axes.step(numbers, so_far, where="post", color="0.2", linewidth=1.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, "y", xlabel="trial", ylabel="tokens per second")
    title = "Trials in turn, and the best so far (hollow: stopped early; dashed: plain decoding)"
    axes.set_title(title, fontsize=11)
    legend(figure, 2)
    return figure


def slices(trials: Sequence[Tried], template: str) -> Figure:
    """What each parameter of a template did, where any took several values: a panel each."""
    own = [one for one in trials if one.result.template == template]
    names = varied(own, template)
    figure, axes_of = panels(len(names), 3.4, 2.4, sharey=True)
    best = fastest(whole(own) or own)
    for axes, name in zip(axes_of, names, strict=True):
        known = [one for one in own if name in one.parameters]
        values = [one.parameters[name] for one in known]
        is_number = all(isinstance(value, int | float) for value in values)
        shown: list[Any] = values if is_number else [str(value) for value in values]
        colours = [GREY if one.result.judged_on is not None else COLOURS[4] for one in known]
        axes.scatter(shown, [one.speed for one in known], s=12, c=colours, alpha=0.7, linewidths=0)
        if name in best.parameters:
            at = best.parameters[name] if is_number else str(best.parameters[name])
            axes.scatter([at], [best.speed], s=70, marker="*", color=COLOURS[5], zorder=3)
        _scale(axes, values if is_number else [])
        axes.set_title(label(name.removeprefix(f"{template}.")), fontsize=9)
        tidy(axes, "y")
    title = f"{label(template)}: the best is the star, grey was stopped early"
    figure.suptitle(title, fontsize=11)
    figure.supylabel("tokens per second", fontsize=10)
    return figure


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """How the values of a parameter lie on their axis; names, where there are none."""
    if not values:
        axes.tick_params(axis="x", labelrotation=30)
    elif min(values) > 0 and max(values) / min(values) >= 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif all(isinstance(value, int) for value in values):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def varied(trials: Sequence[Tried], template: str) -> list[str]:
    """The parameters of a template that took more than one value, the most used ones."""
    values: dict[str, list[Any]] = {}
    for one in trials:
        for name, value in one.parameters.items():
            if name.startswith(f"{template}."):
                values.setdefault(name, []).append(value)
    several = [name for name, taken in values.items() if len(set(taken)) > 1]
    return sorted(several, key=lambda name: -len(values[name]))[:MOST_PANELS]


def pareto(trials: Sequence[Tried], templates: Sequence[str], plain: float) -> Figure:
    """Tokens a second against nodes verified for each token, and the front."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    _points(axes, trials, templates, [one.nodes for one in trials], plain)
    front = pareto_front(trials)
    axes.plot(
        [one.nodes for one in front],
        [one.speed for one in front],
        color="0.2",
        linewidth=1.2,
        drawstyle="steps-pre",
        label="none is faster with as few nodes",
    )
    across = "nodes verified for each token emitted"
    tidy(axes, "y", xlabel=across, ylabel="tokens per second")
    axes.set_title("Speed against verified nodes (dashed line: plain decoding)", fontsize=11)
    legend(figure, 2)
    return figure


def _points(
    axes: Axes,
    trials: Sequence[Tried],
    templates: Sequence[str],
    places: Sequence[float],
    plain: float,
) -> None:
    """A mark a trial by template; hollow where it was judged on some prompts only."""
    axes.axhline(plain, color="0.3", linestyle="--", linewidth=1)
    for row, text in enumerate(templates, start=1):
        colour, mark = colour_of(row), mark_of(row)
        axes.scatter([], [], s=16, marker=mark, color=colour, label=label(text))
        for is_whole in (False, True):
            chosen = [
                (place, one.speed)
                for place, one in zip(places, trials, strict=True)
                if one.result.template == text and (one.result.judged_on is None) == is_whole
            ]
            axes.scatter(
                [place for place, _ in chosen],
                [speed for _, speed in chosen],
                s=16,
                marker=mark,
                facecolors=colour if is_whole else "none",
                edgecolors=colour,
                linewidths=0.7,
                alpha=0.8 if is_whole else 0.5,
            )
