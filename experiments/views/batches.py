"""Rules over texts side by side as pictures: speed, waiting and waste against the batch size."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.views.plot_style import colour_of, label, legend, mark_of, panels, tidy


@dataclass(frozen=True, slots=True)
class BatchPoint:
    """A policy on all texts, at most so many of them side by side."""

    policy: str
    batch_size: int
    tokens_per_second: float
    mean_latency: float  # seconds from a text's arrival to its end
    late_latency: float  # what 5 % of texts wait longer than
    accepted_share: float  # of verified nodes


PANELS = {
    "tokens_per_second": "tokens a second, all texts",
    "mean_latency": "seconds from arrival to end, mean",
    "accepted_share": "share of verified nodes accepted",
}


def batch_figure(points: Sequence[BatchPoint]) -> Figure:
    """A panel for each of `PANELS`, a line for each policy."""
    figure, axes = panels(len(PANELS), 4.2, 4.2)
    sizes = sorted({point.batch_size for point in points})
    for place, policy in enumerate(dict.fromkeys(point.policy for point in points)):
        own = sorted(
            (point for point in points if point.policy == policy), key=lambda p: p.batch_size
        )
        for panel, name in zip(axes, PANELS, strict=False):
            panel.plot(
                [point.batch_size for point in own],
                [getattr(point, name) for point in own],
                color=colour_of(place),
                marker=mark_of(place),
                label=label(policy) if panel is axes[0] else None,
            )
    for panel, title in zip(axes, PANELS.values(), strict=False):
        panel.set_xscale("log", base=2)
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.xaxis.set_minor_locator(NullLocator())
        tidy(panel, xlabel="texts side by side", title=title)
    legend(figure, num_columns=3)
    return figure
