"""Which nodes of a level a beam opens.

Shapes: P rounds side by side, F frontier nodes.
"""

import torch
from torch import Tensor

from adaeagle.tree import likeliest


def opened(scores: Tensor, width: int) -> Tensor:
    """How many children each frontier node gets: `width` of the `width` best of [P, F], [P, F].

    Minus infinity gets none.
    """
    if len(scores) > 1 or not scores.is_cpu:
        return likeliest(scores, width) * width
    # One text, between two draft forwards: fewer calls than `likeliest` makes, and its order.
    [row] = scores.tolist()
    counts = [0] * len(row)
    for place in sorted(range(len(row)), key=row.__getitem__, reverse=True)[:width]:
        if row[place] > -torch.inf:
            counts[place] = width
    return torch.tensor([counts])
