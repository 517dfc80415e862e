"""How pictures look: colours, marks, labels.

Colours are those of Okabe and Ito, which readers with any colour vision tell apart
(https://jfly.uni-koeln.de/color/); a policy has the same colour and mark in every picture.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999")
MARKS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
"""And how text shows them."""
LABEL_WIDTH = 32


def colour_of(place: int) -> str:
    """Of a policy by its place in a run; the first, plain decoding, shares its black with none."""
    return COLOURS[0] if place == 0 else COLOURS[1 + (place - 1) % (len(COLOURS) - 1)]


def mark_of(place: int) -> str:
    """Of a policy by its place: 56 policies differ in colour or mark."""
    return list(MARKS)[place % len(MARKS)]


def png(figure: Figure) -> bytes:
    """The picture as the bytes of a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def label(text: str) -> str:
    """A spec on several lines, broken after its commas; what could be mathematics is text."""
    lines = textwrap.fill(text, LABEL_WIDTH, break_long_words=False, break_on_hyphens=False)
    return lines.replace("$", r"\$")


def tidy(axes: Axes, grid: Literal["x", "y", "both"] = "both", **settings: Any) -> None:
    """No frame at top and right, a grid behind the data, and what `Axes.set` takes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color="0.9")
    axes.set(**settings)


def legend(figure: Figure, num_columns: int = 1) -> None:
    """Below everything."""
    figure.legend(loc="outside lower center", ncols=num_columns, frameon=False, fontsize=9)


def panels(count: int, width: float, height: float, **shared: Any) -> tuple[Figure, Sequence[Axes]]:
    """A figure of at least `count` panels, three a row; those that are too many are hidden.

    Args:
        count: panels wanted.
        width: of each in inches.
        height: of each in inches.
        shared: axes, as `Figure.subplots` takes it.
    """
    num_columns = min(3, count)
    num_rows = math.ceil(count / num_columns)
    size = (width * num_columns, 0.7 + height * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    found = list(figure.subplots(num_rows, num_columns, squeeze=False, **shared).flat)
    for axes in found[count:]:
        axes.set_visible(False)
    return figure, found[:count]
