"""A cost model as terminal tables, as a picture, and as its main figures."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.cost.table import Table
from experiments.views.plot_style import COLOURS, tidy
from experiments.views.sheet import Cell, Sheet

CHAIN: dict[str, Any] = {"linestyle": "--", "marker": "o", "markerfacecolor": "white"}
TREE: dict[str, Any] = {"linestyle": "-", "marker": "o"}
CONTEXT_COLOURS = (*COLOURS[2:5], COLOURS[1], *COLOURS[5:])


def main_figures(model: CostModel) -> dict[str, Any]:
    """What a reader asks for first, in milliseconds, at the middle context of the table."""
    contexts = model.chain.verify.contexts
    place = len(contexts) // 2

    def by_size(table: Table) -> dict[str, float]:
        cells = zip(table.sizes.tolist(), table.median[:, place].tolist(), strict=True)
        return {str(size): round(1000 * seconds, 4) for size, seconds in cells}

    return {
        **{name: model.about[name] for name in ("num_texts", "num_rounds", "seconds")},
        "context": int(contexts[place]),
        "chain_draft_ms": by_size(model.chain.next)["1"],
        "tree_draft_ms": by_size(model.tree.next),
        "chain_verify_ms": by_size(model.chain.verify),
        "tree_verify_ms": by_size(model.tree.verify),
        "chain_other_ms": by_size(model.chain.other),
        "tree_other_ms": by_size(model.tree.other),
    }


def cost_tables(model: CostModel) -> Iterator[Sheet]:
    """Medians by context, how far the quartiles of a cell are apart, and its samples."""
    chain, tree = model.chain, model.tree
    contexts = chain.verify.contexts.tolist()
    drafting = [
        row
        for kind, parts in (("chain", chain), ("tree", tree))
        for row in (
            *_rows(f"{kind}, first", parts.first, sizes=("after 1", "after more")),
            *_rows(f"{kind}, second", parts.second),
            *_rows(f"{kind}, later", parts.next),
        )
    ]
    yield _sheet("a draft forward, ms by context", "nodes", contexts, drafting)
    for title, part in (("a verification", "verify"), ("the rest of a round", "other")):
        rows = [
            *_rows("chain", getattr(chain, part)),
            *_rows("tree", getattr(tree, part), start=1),  # row 0 is the chain's
        ]
        yield _sheet(f"{title}, ms by context", "nodes", contexts, rows)
    prefills = [
        *_rows("target", model.prefill, sizes=("",)),
        *_rows("draft model", model.draft_prefill, sizes=("",)),
    ]
    lengths = model.prefill.contexts.tolist()
    yield _sheet("reading a prompt, ms by its tokens", "", lengths, prefills)


def _sheet(
    title: str, size: str, contexts: Sequence[int], rows: Sequence[tuple[str, ...]]
) -> Sheet:
    def cell(place: int) -> Cell:
        return lambda row: row[place]

    names = (size, *map(str, contexts), "spread", "samples")
    numbers = {name: cell(place) for place, name in enumerate(names, start=1)}
    return Sheet(title, list(rows), {"of a": cell(0)}, numbers)


def _rows(
    kind: str,
    table: Table,
    *,
    start: int = 0,
    sizes: Sequence[str] | None = None,  # what they are called; None: themselves
) -> Iterator[tuple[str, ...]]:
    names = [str(size) for size in table.sizes.tolist()] if sizes is None else sizes
    for row in range(start, len(table.sizes)):
        spread = (table.high[row] - table.low[row]) / table.median[row]
        yield (
            kind,
            names[row],
            *(f"{1000 * seconds:.2f}" for seconds in table.median[row].tolist()),
            f"{100 * float(spread.median()):.0f} %",
            str(int(table.count[row].min())),
        )


def cost_figure(model: CostModel) -> Figure:
    """Draft forwards by width, verifications by nodes, both by context, the rest by nodes."""
    figure = Figure(figsize=(10, 7.6), layout="constrained")
    drafting, verifying, contexts, rest = figure.subplots(2, 2).flat
    chain, tree = model.chain, model.tree
    _draw_by_size(drafting, chain.next, tree.next, start=0)
    _finish(drafting, "A draft forward", "nodes it runs")
    _draw_by_size(verifying, chain.verify, tree.verify, start=1)
    _finish(verifying, "A verification (0 nodes: a plain step)", "drafted nodes")
    _draw_by_context(contexts, model)
    _finish(contexts, "Both by context", "tokens before the round")
    _draw_by_size(rest, chain.other, tree.other, start=1)
    _finish(rest, "The rest of a round", "drafted nodes")
    verifying.legend(title="context", frameon=False, fontsize=9)
    figure.suptitle(
        "Medians and quartiles; full marks: trees, hollow marks: chains", fontsize=11, x=0.5
    )
    return figure


def _draw_by_size(axes: Axes, chain: Table, tree: Table, *, start: int) -> None:
    """A colour a context; of trees only the rows from `start` on are their own."""
    contexts = tree.contexts.tolist()
    for place, context in enumerate(contexts):
        colour = CONTEXT_COLOURS[place % len(CONTEXT_COLOURS)]
        # Moved apart a little, so that no error bar hides another.
        shift = 0.006 * int(tree.sizes[-1]) * (place - (len(contexts) - 1) / 2)
        own = (slice(start, None), place)
        name = f"{context} tokens"
        _curve(axes, tree.sizes[start:] + shift, tree, own, TREE, color=colour, label=name)
        _curve(axes, chain.sizes + shift, chain, (slice(None), place), CHAIN, color=colour)


def _draw_by_context(axes: Axes, model: CostModel) -> None:
    """Small and large forwards of both models, on a logarithmic scale, each named at its end."""
    chain, tree = model.chain, model.tree
    widest, middle = int(tree.next.sizes[-1]), len(tree.verify.sizes) // 2
    lines = [
        ("a draft node", chain.next, 0, CHAIN),
        (f"{widest} draft nodes", tree.next, -1, TREE),
        ("plain step", chain.verify, 0, CHAIN),
        (f"verify {int(tree.verify.sizes[middle])}", tree.verify, middle, TREE),
        (f"verify {int(tree.verify.sizes[-1])}", tree.verify, -1, TREE),
    ]
    for number, (name, table, row, style) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        _curve(axes, table.contexts, table, (row, slice(None)), style, color=colour)
        end = (float(table.contexts[-1]), 1000 * float(table.median[row, -1]))
        axes.annotate(
            name, end, (7, 0), textcoords="offset points", color=colour, va="center", fontsize=9
        )
    axes.set_xlim(right=1.32 * int(chain.verify.contexts[-1]))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _curve(
    axes: Axes, across: Tensor, table: Table, cells: Any, style: dict[str, Any], **look: Any
) -> None:
    """Medians of some cells in milliseconds, with their quartiles as error bars."""
    low, median, high = (1000 * values[cells] for values in (table.low, table.median, table.high))
    bars = torch.stack((median - low, high - median)).numpy()
    drawn = axes.errorbar(across, median, bars, markersize=4, linewidth=1.4, **style, **look)
    for bar in drawn.lines[2]:
        bar.set(alpha=0.45, linestyle="-")


def _finish(axes: Axes, title: str, across: str) -> None:
    axes.set_title(title, fontsize=11)
    tidy(axes, xlabel=across, ylabel="milliseconds", xlim=(-0.02 * axes.get_xlim()[1], None))
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
