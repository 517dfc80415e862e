"""The run's pictures as part of the page: vectors, without a background of their own."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from adaeagle.bench.records import PromptRecord
from experiments.views import plots
from experiments.views.acceptance_plots import acceptance_by_depth


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that the page carries in itself."""

    alt: str
    source: str  # a data URL


def pictures(records: Sequence[PromptRecord], by: str) -> list[Picture]:
    """Time, acceptance and kinds of text.

    Args:
        records: of all prompts.
        by: `source` or `category`, whichever prompts are told apart by.
    """
    drawn = {
        "What an average round's milliseconds went to, by policy": plots.time_per_round(records),
        f"Tokens a round by {by} and policy": plots.tokens_per_round(records, by),
        "Share of drafted tokens accepted by depth and policy": acceptance_by_depth(records),
        "How often a round accepted so many tokens, by policy": plots.accepted_length(records),
    }
    return [Picture(alt, svg(figure)) for alt, figure in drawn.items()]


def svg(figure: Figure) -> str:
    """The picture as a data URL."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "adaeagle"}):  # equal runs give equal bytes
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/svg+xml;base64,{encoded}"
