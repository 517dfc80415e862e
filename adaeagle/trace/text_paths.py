"""Where recorded texts go through recorded drafts: whatever a policy drafts, it is accepted there.

At temperature 0 the nodes that verification would accept are those of the text, so they are looked
up once for all policies.
Shapes: Q positions, P of them side by side, L levels, N drafted nodes, F families (nodes that were
run) of all levels together.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adaeagle.trace.envelope import UNKNOWN, Envelope
from adaeagle.trace.positions import Positions
from adaeagle.tree import ROOT, DraftTree

Ints = npt.NDArray[np.int64]
Sizes = tuple[tuple[int, int], ...]
"""Of a tree's levels, as in `DraftTree.levels`."""


class TextPaths:
    """The nodes of an envelope that the texts go through.

    Args:
        envelope: the drafts; may grow.
        positions: of the texts.
    """

    def __init__(self, envelope: Envelope, positions: Positions) -> None:
        self._envelope = envelope
        self._positions = positions
        self._all = np.empty((2, 0, 0), dtype=np.int64)  # as `_find` tells of every position
        self._version = self._seen = UNKNOWN  # the envelope's: of `_all`, and the latest

    def through(self, rows: Tensor, runs: Sequence[Ints], levels: Sizes) -> Ints:
        """The drafted nodes that the text goes through, one a level: [P, L], -1 where none.

        Args:
            rows: [P] int64 positions.
            runs: [P, W] of each level: the envelope's nodes that were run for it.
            levels: sizes of the tree's levels.
        """
        layout = _families(levels)
        nodes, ranks = self._at(rows.numpy(), len(levels)).take(layout.level, axis=2)
        is_child = (nodes == np.concatenate(runs, axis=1)) & (ranks < layout.num_ranks)
        found = np.where(is_child & (ranks >= 0), layout.first + ranks, ROOT)
        path: Ints = np.maximum.reduceat(found, layout.starts, axis=1)
        return path

    def _at(self, rows: Ints, num_levels: int) -> Ints:
        """As `_find` does, [2, P, L] or deeper: looked up, unless the envelope is growing."""
        version = self._envelope.version
        if self._version != version or self._all.shape[2] < num_levels:
            is_growing, self._seen = self._seen not in (UNKNOWN, version), version
            if is_growing:
                return self._find(rows, num_levels)
            deepest = 1 << (num_levels - 1).bit_length()  # so that few depths are looked for
            self._all = self._find(np.arange(len(self._positions)), deepest)
            self._version = version
        return self._all.take(rows, axis=1)

    def _find(self, rows: Ints, num_levels: int) -> Ints:
        """Of each level the text's node that is run for it, and which child of it follows.

        Returns:
            [2, P, L]: nodes of the envelope and ranks, -1 where there is none.
        """
        envelope = self._envelope
        token_ids, children = envelope.token_ids.numpy(), envelope.children.numpy()
        expected = self._positions.following(torch.from_numpy(rows), num_levels).numpy()
        found = np.full((2, len(rows), num_levels), UNKNOWN)
        here = np.arange(len(rows))  # those whose text is still followed
        node = envelope.roots.numpy()[rows]
        for level in range(num_levels):
            is_run = node >= 0
            here, node = here[is_run], node[is_run]
            is_next = (token_ids[node] == expected[here, level, None]) & (
                expected[here, level, None] >= 0
            )
            rank = is_next.argmax(1)
            found[0, here, level] = node
            is_known = is_next[np.arange(len(here)), rank]
            here, node, rank = here[is_known], node[is_known], rank[is_known]
            found[1, here, level] = rank
            node = children[node, rank]
        return found


def text_path(tree: DraftTree, following: Tensor) -> Tensor:
    """The same of trees that are no part of an envelope, found by their tokens: [P, L].

    Args:
        tree: L levels of drafted nodes.
        following: [P, L] int64 the text's next tokens, -1 beyond its end.
    """
    node = torch.full_like(following[:, 0], ROOT)
    path = []
    for level in range(tree.num_levels):
        is_next = (tree.depths == level + 1) & (tree.parents == node.unsqueeze(1)) & tree.valid
        is_next &= tree.token_ids == following[:, level, None]
        # Where no node follows, none hangs from it either: a row that is nobody's parent.
        node = torch.where(is_next.any(1), is_next.long().argmax(1), len(tree))
        path.append(node)
    found = torch.stack(path, dim=1)
    return found.masked_fill(found == len(tree), ROOT)


class _Families(NamedTuple):
    """The families of a tree, which are as many as nodes were run, all levels end to end: [F]."""

    level: Ints
    first: Ints  # the drafted node that is a family's first
    num_ranks: Ints
    starts: Ints  # [L] the first family of each level


@lru_cache(maxsize=4096)
def _families(levels: Sizes) -> _Families:
    num_parents, num_ranks = np.array(levels).T
    of_each = num_ranks.repeat(num_parents)
    return _Families(
        level=np.arange(len(levels)).repeat(num_parents),
        first=of_each.cumsum() - of_each,
        num_ranks=of_each,
        starts=num_parents.cumsum() - num_parents,
    )
