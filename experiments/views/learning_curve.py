"""A training's losses by step, beside what the best constant would lose."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from experiments.views.plot_style import COLOURS, tidy


def learning_curve(logged: Mapping[str, Mapping[int, float]], constant: float | None) -> Figure:
    """Training and validation loss, and agreement where a head's is logged.

    Args:
        logged: values by step, by name.
        constant: validation loss of the best constant; None: nobody knows it.
    """
    shown = [name for name in ("loss", "agreement") if f"val_{name}" in logged]
    figure = Figure(figsize=(5.5 * max(1, len(shown)), 3.6), layout="constrained")
    for place, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), place + 1)
        for part, colour in (("train", COLOURS[2]), ("val", COLOURS[4])):
            values = logged.get(f"{part}_{name}", {})
            label = {"train": "training", "val": "validation"}[part]
            axes.plot(list(values), list(values.values()), color=colour, label=label)
        if name == "loss" and constant is not None:
            axes.axhline(constant, color=COLOURS[0], linestyle="--", label="best constant")
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel(name)
        axes.legend(frameon=False)
        tidy(axes)
    return figure
