"""Drafted tokens as tensors: growing a tree level by level, choosing rows, masks and positions.

Shapes: P rounds side by side, N drafted nodes, F frontier nodes, W nodes expanded by one draft
forward, C children of each, R rows of a verification (the root and the nodes kept).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

ROOT = -1
"""The row of the root: the pending token, decided by the target and not yet run through it."""


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
    num_origins: int = 0  # draft rows so far: the root's and one for each expanded node
    entropies: Tensor | None = None  # [P, N] nats, of the law each node was proposed from

    def __len__(self) -> int:
        return self.token_ids.shape[1]

    @property
    def num_rounds(self) -> int:
        return self.token_ids.shape[0]

    @classmethod
    def empty(cls, num_rounds: int, device: torch.device | str) -> "DraftTree":
        """A tree before its first draft forward."""
        ids = torch.empty(num_rounds, 0, dtype=torch.int64, device=device)
        reals = torch.empty(num_rounds, 0, dtype=torch.float32, device=device)
        return cls(ids, ids, ids, reals, reals, ids, ids.bool(), ids)

    def grow(self, level: "Level") -> "DraftTree":
        """The tree with the children of one draft forward appended, sibling by sibling."""
        num_rounds, num_parents, num_ranks = level.token_ids.shape
        shape = (num_rounds, num_parents * num_ranks)

        def spread(values: Tensor) -> Tensor:  # [P, W] → [P, W*C]
            return values.unsqueeze(2).expand(-1, -1, num_ranks).reshape(shape)

        depth = self.num_levels + 1
        parents = spread(level.parents)
        log_probs = level.log_probs.reshape(shape)
        path = log_probs
        if depth > 1:
            path = path + spread(self.path_log_probs.gather(1, level.parents))
        ranks = torch.arange(num_ranks, device=parents.device).repeat(num_parents)
        ranks = ranks.expand(num_rounds, -1)
        if level.num_children is None:
            valid = torch.ones_like(parents, dtype=torch.bool)
        else:
            valid = ranks < spread(level.num_children)
            path = path.masked_fill(~valid, -torch.inf)
        rows = torch.arange(num_parents, device=parents.device) + self.num_origins
        origins = spread(rows.expand(num_rounds, num_parents))
        old = DraftTree.empty(num_rounds, parents.device) if depth == 1 else self
        depths = torch.full_like(parents, depth)
        entropies = None if level.entropies is None else spread(level.entropies)
        if entropies is not None and old.entropies is not None:
            entropies = torch.cat((old.entropies, entropies), dim=1)
        return DraftTree(
            token_ids=torch.cat((old.token_ids, level.token_ids.reshape(shape)), dim=1),
            parents=torch.cat((old.parents, parents), dim=1),
            depths=torch.cat((old.depths, depths), dim=1),
            log_probs=torch.cat((old.log_probs, log_probs), dim=1),
            path_log_probs=torch.cat((old.path_log_probs, path), dim=1),
            ranks=torch.cat((old.ranks, ranks), dim=1),
            valid=torch.cat((old.valid, valid), dim=1),
            origins=torch.cat((old.origins, origins), dim=1),
            is_dense=self.is_dense and level.num_children is None,
            num_levels=depth,
            num_origins=self.num_origins + num_parents,
            entropies=entropies,
        )

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
        entropies = self.entropies
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
        )


@dataclass(frozen=True, slots=True)
class Level:
    """What one draft forward proposed: up to C children of each of W nodes, best first."""

    parents: Tensor  # [P, W] int64 rows of the tree, -1 for the root
    token_ids: Tensor  # [P, W, C] int64
    log_probs: Tensor  # [P, W, C] float32
    num_children: Tensor | None = None  # [P, W] int64; None: all C of each
    entropies: Tensor | None = None  # [P, W] nats


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

    The sort is stable, so among equal scores the earlier row wins: a parent before its child, which
    keeps a choice by path log-probability closed under parents even where a child is certain.

    Args:
        scores: [P, M].
        count: how many to mark, one number or [P].
    """
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    rank.scatter_(1, order, places)
    limit = count.unsqueeze(1) if isinstance(count, Tensor) else count
    return (rank < limit) & (scores > -torch.inf)
