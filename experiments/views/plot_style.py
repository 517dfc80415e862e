"""How pictures look: colours, marks, labels.

Colours are those of Okabe and Ito, which readers with any colour vision tell apart
(https://jfly.uni-koeln.de/color/); a policy has the same colour and mark in every picture.
"""

import io
import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
LABEL_WIDTH = 32


def colour_of(place: int) -> str:
    """Of a policy by its place in a run; the first, plain decoding, shares its black with none."""
    return COLOURS[0] if place == 0 else COLOURS[1 + (place - 1) % (len(COLOURS) - 1)]


def mark_of(place: int) -> str:
    """Of a policy by its place: 56 policies differ in colour or mark."""
    return MARKS[place % len(MARKS)]


def png(figure: Figure) -> bytes:
    """The picture as the bytes of a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def label(policy: str) -> str:
    """A spec on several lines, broken after its commas."""
    return textwrap.fill(policy, LABEL_WIDTH, break_long_words=False, break_on_hyphens=False)


def tidy(axes: Axes) -> None:
    """No frame at top and right, the grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
