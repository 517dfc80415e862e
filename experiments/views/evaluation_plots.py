"""A predictor's judgement as pictures."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import roc_curve

from experiments.views.plot_style import COLOURS, legend, tidy
from predictors.base import AcceptancePredictions, LengthPredictions

PREDICTOR, DRAFT = COLOURS[4], COLOURS[1]
FEW = 20
"""Points of fewer statements are left out: they would show chance."""


def acceptance_figure(predictions: AcceptancePredictions, found: dict[str, Any]) -> Figure:
    """Reliability above how many tokens that is, the ROC curve, and acceptance by depth."""
    acceptance = found["acceptance"]
    figure = Figure(figsize=(11, 4.3), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(3, 1))
    reliability = figure.add_subplot(grid[0, 0])
    counts = figure.add_subplot(grid[1, 0], sharex=reliability)
    _reliability(reliability, counts, acceptance["bins"])
    reliability.set_title(
        f"calibration: Brier {acceptance['brier']:.3f}, ECE {acceptance['ece']:.3f}", fontsize=10
    )
    _roc(figure.add_subplot(grid[:, 1]), predictions, acceptance)
    _by_depth(figure.add_subplot(grid[:, 2]), acceptance["by_depth"])
    figure.suptitle(f"Acceptance of {acceptance['num']:,} drafted tokens", fontsize=11)
    return figure


def _reliability(axes: Axes, counts: Axes, bins: list[dict[str, Any]]) -> None:
    axes.plot((0, 1), (0, 1), color="0.6", linestyle="--", linewidth=1)
    predicted, accepted = [each["told"] for each in bins], [each["accepted"] for each in bins]
    axes.plot(predicted, accepted, color=PREDICTOR, marker="o", markersize=4)
    axes.tick_params(labelbottom=False)
    middles = [(each["low"] + each["high"]) / 2 for each in bins]
    counts.bar(middles, [each["num"] for each in bins], 0.045, color=PREDICTOR)
    tidy(axes, xlim=(0, 1), ylabel="accepted")
    tidy(counts, yscale="log", ylim=(0.7, None), xlabel="probability the predictor gave")
    counts.set_ylabel("tokens", fontsize=9)
    for axis in (axes.xaxis, axes.yaxis, counts.xaxis):
        axis.set_major_formatter(PercentFormatter(1))


def _roc(axes: Axes, predictions: AcceptancePredictions, acceptance: dict[str, Any]) -> None:
    accepted = predictions.accepted.numpy()
    own = acceptance["draft_confidence"]
    axes.plot((0, 1), (0, 1), color="0.6", linestyle="--", linewidth=1)
    curves = (
        ("draft's own confidence", own["auc"], predictions.confidences, DRAFT),
        ("predictor", acceptance["auc"], predictions.probs, PREDICTOR),
    )
    for name, area, scores, colour in curves:
        if area is None:  # all accepted, or none
            continue
        rejected, kept, _ = roc_curve(accepted, scores.numpy())
        axes.plot(rejected, kept, color=colour, linewidth=1.6, label=f"{name}, AUC {area:.3f}")
    tidy(axes, xlabel="rejected tokens taken for accepted ones", ylabel="accepted tokens found")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set_title("telling accepted from rejected", fontsize=10)
    axes.legend(loc="lower right", frameon=False, fontsize=9)


def _by_depth(axes: Axes, rows: list[dict[str, Any]]) -> None:
    rows = [row for row in rows if row["num"] >= FEW]
    depths = [row["depth"] for row in rows]
    axes.plot(depths, [row["accepted"] for row in rows], color="0.25", marker="s", label="accepted")
    predicted = [row["told"] for row in rows]
    axes.plot(depths, predicted, color=PREDICTOR, marker="o", markersize=4, label="as predicted")
    tidy(axes, ylim=(0, 1.02), xlabel="depth of the drafted token")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_title("by depth", fontsize=10)
    axes.legend(frameon=False, fontsize=9)


def lengths_figure(lengths: LengthPredictions, found: dict[str, Any]) -> Figure:
    """Where predicted lengths lie beside true ones, and the true ones' mean at each prediction."""
    acceptance, true = lengths.predicted.numpy(), lengths.true.numpy()
    longest = max(1, int(np.ceil(max(acceptance.max(), true.max()))))
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    edges = np.arange(longest + 2) - 0.5
    grid, _, _ = np.histogram2d(true, acceptance, bins=(edges, edges))
    share = np.divide(grid, grid.sum(0), where=grid.sum(0) > 0, out=np.full_like(grid, np.nan))
    most = max(0.3, np.nanmax(share))
    image = axes.pcolormesh(edges, edges, share, cmap="Blues", vmin=0, vmax=most)
    share_label = "share of the positions with this prediction"
    figure.colorbar(image, label=share_label, format=PercentFormatter(1))
    axes.plot((0, longest), (0, longest), color="0.5", linestyle="--", linewidth=1)
    places = np.round(acceptance).astype(int)
    often = [k for k in range(longest + 1) if (places == k).sum() >= FEW]
    axes.plot(
        often,
        [true[places == k].mean() for k in often],
        color=COLOURS[5],
        marker="o",
        markersize=4,
        label="mean of the true ones",
    )
    tidy(axes, xlabel="predicted length, tokens", ylabel="true length, tokens")
    legend(figure)
    of = found["lengths"]
    axes.set_title(
        f"{of['num']:,} positions: mean error {of['error']:.2f} tokens, "
        f"of the best constant {of['constant_error']:.2f}",
        fontsize=10,
    )
    return figure
