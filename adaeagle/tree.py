"""Drafted tokens as tensors: growing a tree level by level, choosing rows, masks and positions.

Shapes: P rounds side by side, N drafted nodes, F frontier nodes, W nodes expanded by one draft
forward, C children of each, R rows of a verification (the root and the nodes kept).
"""

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ROOT = -1
"""The row of the root: the pending token, decided by the target and not yet run through it."""
FEW = 128
"""Nodes that are sorted sooner as a list than a threshold among them is found."""


class _Growing:
    """Columns of a grown tree are made when they are first read.

    Most are read once, when drafting is over, and some never: they need not be made again after
    every draft forward.
    """

    __slots__ = ("_grown",)

    _grown: "_Grown | None"

    if not TYPE_CHECKING:

        def __getattr__(self, name):  # asked only for what was not set
            if name == "_grown":
                return None
            if name not in COLUMNS:
                raise AttributeError(f"{type(self).__name__} has no {name}")
            column = self._grown.column(name, self.levels)
            object.__setattr__(self, name, column)
            return column


@dataclass(frozen=True, slots=True)
class DraftTree(_Growing):
    """Drafted tokens of P rounds. A parent comes before its children; a chain is a tree of width 1.

    Ragged trees are padded: a row whose `valid` is False is nobody's token. Its path
    log-probability is minus infinity, so that no ranking picks it.
    """

    token_ids: Tensor  # [P, N] int64
    parents: Tensor  # [P, N] int64, -1 below the root
    depths: Tensor  # [P, N] int64, 1 for the first drafted token
    log_probs: Tensor  # [P, N] float32, log q(token | path)
    path_log_probs: Tensor  # [P, N] float32, sum of log_probs from the root
    ranks: Tensor  # [P, N] int64, 0 for a parent's best child
    valid: Tensor  # [P, N] bool
    origins: Tensor  # [P, N] int64: the draft row it was proposed from, 0 for the root's
    is_dense: bool = True  # no row is padding (known without asking the device)
    num_levels: int = 0  # levels drafted: no node is deeper
    num_origins: int = 0  # draft rows so far: the root's and one for each expanded node
    levels: tuple[tuple[int, int], ...] = ()  # of each level as it was grown: parents, children
    entropies: Tensor | None = None  # [P, N] nats, of the distribution each node was proposed from
    confidences: Tensor | None = (
        None  # [P, N, C] log-probs of that distribution's best tokens, -inf: none
    )

    def __len__(self) -> int:
        return self.token_ids.shape[1] if self._grown is None else self._grown.num_rows

    @property
    def num_rounds(self) -> int:
        return self.token_ids.shape[0] if self._grown is None else self._grown.num_rounds

    def of_level(self, number: int, name: str) -> Tensor:
        """A column of one level alone, the last one's with -1: [P, F].

        Args:
            number: of the level in `levels`; no tree but one that was grown has any.
            name: of the column.
        """
        if self._grown is not None and name in self._grown.parts:
            return self._grown.parts[name][number]
        sizes = [num_parents * num_ranks for num_parents, num_ranks in self.levels]
        first = sum(sizes[:number])
        column: Tensor = getattr(self, name)
        return column[:, first : first + sizes[number]]

    def at(self, name: str, rows: Tensor) -> Tensor:
        """A column at some rows of the last level: [P, W]."""
        column = self.of_level(-1, name)
        if column.shape[1] == 1:  # of a chain there is but one
            return column
        return column.gather(1, rows - (len(self) - column.shape[1]))

    @classmethod
    def empty(cls, num_rounds: int, device: torch.device | str) -> "DraftTree":
        """A tree before its first draft forward."""
        ids = torch.empty(num_rounds, 0, dtype=torch.int64, device=device)
        reals = torch.empty(num_rounds, 0, dtype=torch.float32, device=device)
        return cls(ids, ids, ids, reals, reals, ids, ids.bool(), ids)

    def grow(self, level: "Level") -> "DraftTree":
        """The tree with the children of one draft forward appended, sibling by sibling.

        Args:
            level: of parents in the last level.
        """
        num_rounds, num_parents, num_ranks = level.token_ids.shape
        shape, num_before = (num_rounds, num_parents * num_ranks), len(self)

        def spread(values: Tensor) -> Tensor:  # [P, W, ...] → [P, W*C, ...]
            if num_ranks == 1:
                return values
            repeated = values.unsqueeze(2).expand(-1, -1, num_ranks, *values.shape[2:])
            return repeated.flatten(1, 2)

        log_probs = level.log_probs.reshape(shape)
        path = log_probs
        if self.num_levels > 0:
            above = self.at("path_log_probs", level.parents)
            path = (level.log_probs + above.unsqueeze(2)).reshape(shape)
        own = {"token_ids": level.token_ids.reshape(shape), "parents": spread(level.parents)}
        if level.num_children is not None:
            ranks = consecutive(0, num_ranks, path.device)
            own["valid"] = (ranks < level.num_children.unsqueeze(2)).reshape(shape)
            path = path.masked_fill(~own["valid"], -torch.inf)
        elif not self.is_dense:
            own["valid"] = torch.ones_like(path, dtype=torch.bool)
        own |= {"log_probs": log_probs, "path_log_probs": path}
        for name in ("entropies", "confidences"):
            if (values := getattr(level, name)) is not None:
                own[name] = spread(values)
        tree = object.__new__(DraftTree)
        stated = {
            "is_dense": self.is_dense and level.num_children is None,
            "num_levels": self.num_levels + 1,
            "num_origins": self.num_origins + num_parents,
            "levels": (*self.levels, (num_parents, num_ranks)),
            "_grown": _Grown(
                parts={name: (*self._parts(name), column) for name, column in own.items()},
                num_rounds=num_rounds,
                num_rows=num_before + shape[1],
                device=path.device,
            ),
        }
        for name, value in stated.items():
            object.__setattr__(tree, name, value)
        return tree

    def _parts(self, name: str) -> tuple[Tensor, ...]:
        """A column level by level."""
        if self._grown is not None and name in self._grown.parts:
            return self._grown.parts[name]
        return tuple(self.of_level(number, name) for number in range(self.num_levels))

    def cut(self, num_levels: int) -> "DraftTree":
        """The tree as it was after so many draft forwards, no more than there were."""
        levels = self.levels[:num_levels]
        num_rows = sum(parents * children for parents, children in levels)
        changed: dict[str, Any] = {
            field.name: column[:, :num_rows]
            for field in fields(self)
            if isinstance(column := getattr(self, field.name), Tensor)
        }
        changed["num_origins"] = sum(parents for parents, _ in levels)
        return replace(self, levels=levels, num_levels=len(levels), **changed)

    def take(self, keep: Tensor, num_rows: int) -> "DraftTree":
        """The kept rows alone, in their order, with parents renumbered.

        Args:
            keep: [P, N] bool, closed under parents and within `valid`.
            num_rows: width of the result, at least the largest number of rows kept.
        """
        rows = torch.argsort(keep, dim=1, descending=True, stable=True)[:, :num_rows]
        kept = keep.gather(1, rows)
        new_row = keep.cumsum(1) - 1  # [P, N] the place of each kept row
        old_parents = self.parents.gather(1, rows)
        parents = new_row.gather(1, old_parents.clamp(min=0)).masked_fill(old_parents < 0, ROOT)
        entropies, confidences = self.entropies, self.confidences
        return replace(
            self,
            token_ids=self.token_ids.gather(1, rows),
            parents=parents.masked_fill(~kept, ROOT),
            depths=self.depths.gather(1, rows),
            log_probs=self.log_probs.gather(1, rows),
            path_log_probs=self.path_log_probs.gather(1, rows),
            ranks=self.ranks.gather(1, rows),
            valid=kept,
            origins=self.origins.gather(1, rows),
            is_dense=False,
            entropies=None if entropies is None else entropies.gather(1, rows),
            confidences=None if confidences is None else _at(confidences, rows),
        )


COLUMNS = frozenset(each.name for each in fields(DraftTree) if "Tensor" in str(each.type))
"""What a tree tells of each of its nodes."""
LAID_OUT = ("depths", "ranks", "origins", "valid")
"""Columns that depend on the sizes of the levels alone, where no row is padding."""


class _Grown(NamedTuple):
    """What the columns of a grown tree are made of."""

    parts: dict[str, tuple[Tensor, ...]]  # what levels added to columns, [P, F] each
    num_rounds: int
    num_rows: int
    device: torch.device

    def column(self, name: str, levels: tuple[tuple[int, int], ...]) -> Tensor | None:
        if name in self.parts:
            parts = self.parts[name]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if name in LAID_OUT:
            layout = _layout(levels, self.device)
            return layout[LAID_OUT.index(name)].expand(self.num_rounds, -1)
        return None  # the draft was not asked for it


@dataclass(frozen=True, slots=True)
class Level:
    """What one draft forward proposed: up to C children of each of W nodes, best first."""

    parents: Tensor  # [P, W] int64 rows of the tree, -1 for the root
    token_ids: Tensor  # [P, W, C] int64
    log_probs: Tensor  # [P, W, C] float32
    num_children: Tensor | None = None  # [P, W] int64; None: all C of each
    entropies: Tensor | None = None  # [P, W] nats
    confidences: Tensor | None = None  # [P, W, C]


def _at(values: Tensor, rows: Tensor) -> Tensor:
    """[P, N, C] at rows [P, R]: [P, R, C]."""
    return values.gather(1, rows.unsqueeze(2).expand(-1, -1, values.shape[2]))


@lru_cache(maxsize=4096)
@torch.inference_mode(False)
def consecutive(first: int, end: int, device: torch.device) -> Tensor:
    """Rows `first` to `end`, the latter excluded; rounds repeat them."""
    return torch.arange(first, end, device=device)


@lru_cache(maxsize=4096)
@torch.inference_mode(False)
def _layout(levels: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, ...]:
    """Depths, ranks, origins and validity of the rows of dense levels, each [N].

    They depend on the sizes of the levels alone, and rounds repeat those.
    """
    *before, (num_parents, num_ranks) = levels
    rows = torch.arange(num_parents * num_ranks, device=device)
    first_origin = sum(parents for parents, _ in before)
    own = torch.full_like(rows, len(levels)), rows % num_ranks, rows // num_ranks + first_origin
    columns = (*own, torch.ones_like(rows, dtype=torch.bool))
    if not before:
        return columns
    above = _layout(tuple(before), device)
    return tuple(torch.cat(pair) for pair in zip(above, columns, strict=True))


def ancestors(tree: DraftTree) -> Tensor:
    """Which nodes lie on each node's path, itself included: [P, N, N] bool.

    Squares the one-step relation, so a tree of depth d takes about log2(d) products.
    """
    num_rounds, num_nodes = tree.parents.shape
    if tree.is_dense and num_nodes == tree.num_levels:  # a chain
        ones = torch.ones(num_nodes, num_nodes, dtype=torch.bool, device=tree.parents.device)
        return ones.tril_().expand(num_rounds, -1, -1)
    reach = torch.zeros(num_rounds, num_nodes, num_nodes + 1, device=tree.parents.device)
    # Column 0 stands for the root and is cut off.
    reach.scatter_(2, (tree.parents + 1).unsqueeze(2), 1.0)
    reach = reach[:, :, 1:]
    reach.diagonal(dim1=1, dim2=2).fill_(1.0)
    steps = 1
    while steps < tree.num_levels - 1:
        reach = (reach @ reach).clamp_(max=1.0)
        steps *= 2
    return reach > 0


def likeliest(scores: Tensor, count: int | Tensor) -> Tensor:
    """Marks the `count` highest scores of each row: [P, M] → bool [P, M]; -inf is never marked.

    The sort is stable, so among equal scores the earlier row wins: a parent before its child, which
    keeps a choice by path log-probability closed under parents even where a child is certain.

    Args:
        scores: [P, M].
        count: how many to mark, one number or [P].
    """
    if isinstance(count, int) and scores.shape[1] <= count:
        return scores > -torch.inf
    if isinstance(count, int) and count > 0 and scores.device.type == "cpu":
        if scores.shape[0] == 1:
            return (_of_few if scores.shape[1] <= FEW else _of_one_row)(scores, count)
        return _above_threshold(scores, count)
    return _first_of_sorted(scores, count)


def _first_of_sorted(scores: Tensor, count: int | Tensor) -> Tensor:
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    marked = torch.zeros_like(scores, dtype=torch.bool)
    if isinstance(count, int):
        marked.scatter_(1, order[:, :count], True)
    else:
        places = torch.arange(scores.shape[1], device=scores.device)
        marked.scatter_(1, order, places < count.unsqueeze(1))
    return marked & (scores > -torch.inf)


def _of_few(scores: Tensor, count: int) -> Tensor:
    """The same for one text's few nodes on the host: between forwards lists take the least time."""
    [values] = scores.tolist()
    marked = bytearray(len(values))
    # A sort in reverse is stable as well.
    for place in sorted(range(len(values)), key=values.__getitem__, reverse=True)[:count]:
        marked[place] = values[place] > -math.inf
    return torch.frombuffer(marked, dtype=torch.bool).unsqueeze(0)


def _of_one_row(scores: Tensor, count: int) -> Tensor:
    """The same for one text on the host: between forwards calls are dear, sorting most of all."""
    least = scores.kthvalue(scores.shape[1] - count + 1, dim=1, keepdim=True).values
    marked = scores >= least
    # More than asked for: equal scores at the threshold, where order decides, or -inf itself.
    return marked if int(marked.sum()) == count else _first_of_sorted(scores, count)


def _above_threshold(scores: Tensor, count: int) -> Tensor:
    """The same for many rows on the host, where finding a threshold is faster than sorting."""
    place = scores.shape[1] - count
    values = scores.numpy()  # which selects with SIMD, several times faster than `kthvalue`
    is_marked = values >= np.partition(values, place, axis=1)[:, place : place + 1]
    marked = torch.from_numpy(is_marked)
    if np.count_nonzero(is_marked) > count * len(marked):
        # More than asked for: equal scores at the threshold, where order decides, or -inf itself.
        is_tied = marked.sum(1) > count
        marked[is_tied] = _first_of_sorted(scores[is_tied], count)
    return marked
