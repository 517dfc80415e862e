"""How often a recorded text goes on in the draft model's best child, second-best, third-best, ...

Shapes: P positions, D depths, R ranks.
"""

import torch
from torch import Tensor

from adaeagle.trace.trace import Trace


def acceptance_by_rank(
    trace: Trace, depth: int, num_ranks: int, rows: Tensor | None = None
) -> Tensor:
    """The chance that a child is accepted once its parent is, by depth and rank: [D, R] float64.

    At each depth those positions are counted whose text goes on there, and whose path so far was
    recorded: a node that was not run has no children to compare with. Where nothing is left to
    count the chance is 0.

    Args:
        trace: of the texts to count on.
        depth: D, how deep to look.
        num_ranks: R, how many children of a node to tell apart.
        rows: [P] int64 positions to count, such as those at which a policy's rounds begin: these
            are harder than the rest, since what is easy is drafted over. None: all, once each.
    """
    envelope, positions = trace.envelope, trace.positions
    rows = torch.arange(len(positions)) if rows is None else rows
    node = envelope.roots[rows]
    found = torch.zeros(depth, num_ranks, dtype=torch.float64)
    for level in range(depth):
        text_ids = positions.expected(rows, level + 1)
        is_counted = (node >= 0) & (text_ids >= 0)
        rows, node, text_ids = rows[is_counted], node[is_counted], text_ids[is_counted]
        if len(rows) == 0:
            break
        match = envelope.token_ids[node] == text_ids.unsqueeze(1)  # [P, recorded ranks]
        is_found, rank = match.max(dim=1)
        counts = torch.bincount(rank[is_found], minlength=num_ranks)[:num_ranks]
        found[level, : len(counts)] = counts.double() / len(rows)
        children = envelope.children[node, rank]
        node = children.masked_fill(~is_found, -1)
    return found
