"""Drafted tokens as tensors: growing a tree level by level, choosing rows, masks and positions.

Shapes: P rounds side by side, N drafted nodes, F frontier nodes, W nodes opened for one level,
C children of each, R rows of a verification (the root and the nodes kept).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = -1
"""The row of the root: the pending token, decided by the target and not yet run through it."""

UNLIKELY = -16.0
"""The log-prob of children that no draft network has proposed: below any that it does."""


@dataclass(frozen=True, slots=True)
class Level:
    """What one step of drafting proposed: up to C children of each of W nodes, best first."""

    parents: Tensor  # [P, W] int64 rows of the tree, -1 for the root
    token_ids: Tensor  # [P, W, C] int64
    log_probs: Tensor  # [P, W, C] float32
    num_children: Tensor | None = None  # [P, W] int64; None: all C of each
    entropies: Tensor | None = None  # [P, W] nats
    confidences: Tensor | None = None  # [P, W, K]
    scores: Tensor | None = None  # [P, W, C] of candidates, which are no log-probs


@dataclass(frozen=True, slots=True)
class DraftTree:
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
    levels: tuple[tuple[int, int], ...] = ()  # of each level as it was grown: parents, children
    entropies: Tensor | None = None  # [P, N] nats, of the distribution each node was proposed from
    confidences: Tensor | None = None  # [P, N, K] log-probs of its best tokens, -inf: none
    scores: Tensor | None = None  # [P, N] a drafter's own score of each node, no log-prob

    def __len__(self) -> int:
        return self.token_ids.shape[1]

    @property
    def num_rounds(self) -> int:
        """P."""
        return self.token_ids.shape[0]

    @property
    def row_depths(self) -> Tensor:
        """[P] int64, on the CPU: the levels in which each round drafted anything."""
        if self.is_dense:
            return torch.full((self.num_rounds,), self.num_levels)
        return (self.depths * self.valid).amax(1).cpu()

    @property
    def last_level(self) -> slice:
        """The rows of the latest level, of a tree that was grown."""
        num_parents, num_children = self.levels[-1] if self.levels else (0, 0)
        return slice(len(self) - num_parents * num_children, len(self))

    @classmethod
    def empty(cls, num_rounds: int, device: torch.device | str) -> "DraftTree":
        """A tree before its first level."""
        ids = torch.empty(num_rounds, 0, dtype=torch.int64, device=device)
        reals = torch.empty(num_rounds, 0, dtype=torch.float32, device=device)
        return cls(ids, ids, ids, reals, reals, ids, ids.bool(), ids)

    def grow(self, level: Level) -> "DraftTree":
        """The tree with one more level, sibling by sibling.

        Args:
            level: children of nodes of the last level.
        """
        shape = level.token_ids.shape
        num_opened = sum(num_parents for num_parents, _ in self.levels)
        like = level.parents
        ranks = torch.arange(shape[2], device=like.device).expand(shape)
        first_row = num_opened + torch.arange(shape[1], device=like.device)
        path = level.log_probs
        if self.num_levels > 0:
            path = path + self.path_log_probs.gather(1, like).unsqueeze(2)
        valid = torch.ones_like(ranks, dtype=torch.bool)
        if level.num_children is not None:
            valid = ranks < level.num_children.unsqueeze(2)
            path = path.masked_fill(~valid, -torch.inf)
        new: dict[str, Tensor | None] = {
            "token_ids": level.token_ids,
            "parents": like.unsqueeze(2),
            "depths": torch.full_like(ranks, self.num_levels + 1),
            "log_probs": level.log_probs,
            "path_log_probs": path,
            "ranks": ranks,
            "valid": valid,
            "origins": first_row.unsqueeze(1),
            "entropies": None if level.entropies is None else level.entropies.unsqueeze(2),
            "confidences": None if level.confidences is None else level.confidences.unsqueeze(2),
            "scores": level.scores,
        }
        columns = {
            name: _appended(getattr(self, name), values, shape)
            for name, values in new.items()
            if values is not None
        }
        return DraftTree(
            **columns,
            is_dense=self.is_dense and level.num_children is None,
            num_levels=self.num_levels + 1,
            levels=(*self.levels, (shape[1], shape[2])),
        )

    def row(self, number: int) -> "DraftTree":
        """One round alone, P = 1."""
        return replace(self, **self._columns(lambda column: column[number : number + 1]))

    def _columns(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Every column, changed."""
        return {
            field.name: change(column)
            for field in fields(self)
            if isinstance(column := getattr(self, field.name), Tensor)
        }

    def cut(self, num_levels: int) -> "DraftTree":
        """The tree as it was after so many levels, no more than there were."""
        levels = self.levels[:num_levels]
        num_rows = sum(parents * children for parents, children in levels)
        columns = self._columns(lambda column: column[:, :num_rows])
        return replace(self, levels=levels, num_levels=len(levels), **columns)

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
        columns = self._columns(lambda column: _at(column, rows))
        columns |= {"parents": parents.masked_fill(~kept, ROOT), "valid": kept}
        return replace(self, is_dense=False, levels=(), **columns)


@dataclass(frozen=True, slots=True)
class ExtraRows:
    """Rows that ride in a verification and are never committed, such as Lookahead's window."""

    token_ids: Tensor  # [P, X] int64
    depths: Tensor  # [P, X] int64, positions after the root's
    allowed: Tensor  # [P, X, X] bool, which extra rows each sees beside the text and the root


def _appended(column: Tensor | None, values: Tensor, shape: torch.Size) -> Tensor:
    """A column with those of a level behind it: [P, N, ...] and [P, W or 1, C or 1, ...]."""
    own = values.expand(*shape, *values.shape[3:]).flatten(1, 2)
    return own if column is None or column.shape[1] == 0 else torch.cat((column, own), dim=1)


def _at(values: Tensor, rows: Tensor) -> Tensor:
    """[P, N, ...] at rows [P, R]: [P, R, ...]."""
    index = rows.view(*rows.shape, *[1] * (values.ndim - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def ancestors(tree: DraftTree) -> Tensor:
    """Which nodes lie on each node's path, itself included: [P, N, N] bool.

    Squares the one-step relation, so a tree of depth d takes about log2(d) products.
    """
    num_rounds, num_nodes = tree.parents.shape
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

    Among equal scores the earlier row wins: a parent before its child, which keeps a choice by path
    log-probability closed under parents even where a child is certain.

    Args:
        scores: [P, M].
        count: how many to mark, one number or [P].
    """
    if isinstance(count, int):
        if scores.shape[1] <= count:
            return scores > -torch.inf
        if scores.is_cpu and count > 0:
            return _above_threshold(scores, count)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device)
    count = torch.as_tensor(count, device=scores.device).view(-1, 1)
    marked = torch.zeros_like(scores, dtype=torch.bool)
    marked.scatter_(1, order, (places < count).expand_as(scores))
    return marked & (scores > -torch.inf)


def _above_threshold(scores: Tensor, count: int) -> Tensor:
    """The same on the host, where NumPy finds a threshold several times sooner than torch sorts.

    A replay chooses among hundreds of nodes of thousands of rounds side by side.
    """
    values = scores.numpy()
    place = values.shape[1] - count
    least = np.partition(values, place, axis=1)[:, place : place + 1]
    is_above = values > least
    # Of those that equal the threshold the first ones, as many as are left.
    is_equal = (values == least) & (least > -np.inf)
    left = count - is_above.sum(axis=1, keepdims=True)
    return torch.from_numpy(is_above | (is_equal & (is_equal.cumsum(axis=1) <= left)))
