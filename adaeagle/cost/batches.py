"""What rounds of texts side by side cost: a table for each number of texts that was measured.

Such a table is asked with sums over the texts: of the nodes each draft forward runs, and of the
nodes verified. The context is the texts' mean.
"""

from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adaeagle.cost.model import CostModel, Parts
from adaeagle.cost.table import Table


def side_by_side(cost: CostModel, num_texts: int) -> CostModel:
    """The same machine with so many texts side by side.

    Seconds are linear in the number of texts between those measured, and beyond the last as between
    the last two. Where none was measured, a further text takes what one more verified node does.

    Args:
        cost: of one text, and of as many as its `batches` say.
        num_texts: at least 1.
    """
    known = {1: cost, **cost.batches}
    if num_texts in known:
        return known[num_texts]
    if len(known) == 1:
        return _changed([cost], lambda name, tables: _shifted(name, tables[0], num_texts - 1))
    measured = sorted(known)
    place = min(bisect(measured, num_texts), len(measured) - 1)
    fewer, more = measured[place - 1], measured[place]
    share = (num_texts - fewer) / (more - fewer)
    return _changed([known[fewer], known[more]], lambda _, both: _between(both[0], both[1], share))


def of_each(cost: CostModel, num_texts: int) -> CostModel:
    """A table measured with the same shape in each of some texts, by sums over them."""

    def summed(name: str, tables: Sequence[Table]) -> Table:
        [table] = tables
        return table if name == "first" else replace(table, sizes=table.sizes * num_texts)

    return _changed([cost], summed)


def _changed(
    models: Sequence[CostModel], change: Callable[[str, Sequence[Table]], Table]
) -> CostModel:
    """The first model, with parts made of those of all."""
    chain, tree = (
        Parts(
            **{
                name: change(name, [getattr(getattr(model, kind), name) for model in models])
                for name in Parts.__slots__
            }
        )
        for kind in ("chain", "tree")
    )
    return replace(models[0], chain=chain, tree=tree, batches={})


def _between(fewer: Table, more: Table, share: float) -> Table:
    sizes = _ascending(fewer.sizes, more.sizes)
    contexts = _ascending(fewer.contexts, more.contexts)
    low, high = (table.at(sizes.unsqueeze(1), contexts.unsqueeze(0)) for table in (fewer, more))
    return _exact(sizes, contexts, (low + share * (high - low)).clamp(min=0))


def _shifted(name: str, table: Table, num_rows: int) -> Table:
    """A verification's seconds as of so many more nodes; other tables as they are."""
    if name != "verify":
        return table
    sizes = _ascending(table.sizes, (table.sizes - num_rows).clamp(min=0))
    seconds = table.at((sizes + num_rows).unsqueeze(1), table.contexts.unsqueeze(0))
    return _exact(sizes, table.contexts, seconds)


def _ascending(*grids: Tensor) -> Tensor:
    return torch.tensor(sorted({point for grid in grids for point in grid.tolist()}))


def _exact(sizes: Tensor, contexts: Tensor, seconds: Tensor) -> Table:
    count = torch.zeros(seconds.shape, dtype=torch.int64)
    return Table(sizes, contexts, seconds, seconds, seconds, count)
