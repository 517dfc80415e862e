"""The recorded drafts: every node that was run through the draft model, and its best children.

Shapes: Q positions, E nodes that were run, R recorded ranks, M new nodes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

UNKNOWN = -1
"""Where a node was not run, or a rank not recorded."""


class Envelope:
    """Draft nodes of many positions; grows as nodes are drafted.

    A node's children are what the draft model proposes after it. The root of a position is a node
    like others, without a parent. Buffers double where they are full, so adding is cheap.

    Args:
        num_positions: Q.
        num_ranks: R, how many of the best children are kept of each node.
    """

    def __init__(self, num_positions: int, num_ranks: int) -> None:
        self.num_nodes = 0
        self.num_ranks = num_ranks
        self.is_ragged = False
        """Some nodes may have fewer ranks recorded than others."""
        self.version = 0
        """Another number whenever anything was added."""
        self.roots = torch.full((num_positions,), UNKNOWN)  # [Q] int64
        self._whole = torch.full((0, 3), UNKNOWN)  # position, parent, rank
        self._entropies = torch.empty(0)
        self._token_ids = torch.full((0, num_ranks), UNKNOWN)
        self._log_probs = torch.empty(0, num_ranks)
        self._children = torch.full((0, num_ranks), UNKNOWN)

    @property
    def num_positions(self) -> int:
        return self.roots.shape[0]

    @property
    def positions(self) -> Tensor:
        """[E] int64 the position each node belongs to."""
        return self._whole[: self.num_nodes, 0]

    @property
    def parents(self) -> Tensor:
        """[E] int64 the node each hangs from, -1 for roots; a parent comes before its children."""
        return self._whole[: self.num_nodes, 1]

    @property
    def ranks(self) -> Tensor:
        """[E] int64 which child of its parent each is, 0 the best; 0 for roots."""
        return self._whole[: self.num_nodes, 2]

    @property
    def entropies(self) -> Tensor:
        """[E] float32 nats, of the distribution of the token after each node."""
        return self._entropies[: self.num_nodes]

    @property
    def token_ids(self) -> Tensor:
        """[E, R] int64 the best children, -1 for ranks not recorded."""
        return self._token_ids[: self.num_nodes]

    @property
    def log_probs(self) -> Tensor:
        """[E, R] float32 of the best children."""
        return self._log_probs[: self.num_nodes]

    @property
    def children(self) -> Tensor:
        """[E, R] int64 the node that each child is, -1 where it was not run."""
        return self._children[: self.num_nodes]

    def add(
        self,
        positions: Tensor,
        parents: Tensor,
        ranks: Tensor,
        token_ids: Tensor,
        log_probs: Tensor,
        entropies: Tensor,
    ) -> Tensor:
        """Adds nodes, each once, after their parents; returns their numbers, [M] int64.

        Args:
            positions: [M] int64.
            parents: [M] int64 nodes, -1 for roots.
            ranks: [M] int64, which child of the parent.
            token_ids: [M, R] int64 the best children, best first.
            log_probs: [M, R] float32.
            entropies: [M] float32.
        """
        start, end = self.num_nodes, self.num_nodes + positions.shape[0]
        self._reserve(end)
        self._whole[start:end] = torch.stack((positions, parents, ranks), dim=1)
        self._token_ids[start:end] = token_ids
        self._log_probs[start:end] = log_probs
        self._entropies[start:end] = entropies
        self.num_nodes = end
        self.version += 1
        new = torch.arange(start, end)
        self._link(new)
        return new

    def _link(self, nodes: Tensor) -> None:
        """Tells parents and positions of nodes that were added."""
        positions, parents, ranks = self._whole[nodes].unbind(1)
        is_root = parents < 0
        self.roots[positions[is_root]] = nodes[is_root]
        self._children[parents[~is_root], ranks[~is_root]] = nodes[~is_root]

    def replace(self, nodes: Tensor, token_ids: Tensor, log_probs: Tensor) -> None:
        """Gives nodes more ranks than were recorded: [M], [M, R], [M, R]."""
        self._token_ids[nodes] = token_ids
        self._log_probs[nodes] = log_probs
        self.version += 1

    def widen(self, num_ranks: int) -> None:
        """Makes room for more ranks, unknown until nodes are drafted again."""
        more = num_ranks - self.num_ranks
        self._token_ids = F.pad(self._token_ids, (0, more), value=UNKNOWN)
        self._children = F.pad(self._children, (0, more), value=UNKNOWN)
        self._log_probs = F.pad(self._log_probs, (0, more), value=-torch.inf)
        self.num_ranks = num_ranks
        self.is_ragged = self.num_nodes > 0
        self.version += 1

    def _reserve(self, num_nodes: int) -> None:
        capacity = self._whole.shape[0]
        if num_nodes <= capacity:
            return
        more = max(num_nodes, 2 * capacity) - capacity
        self._whole = F.pad(self._whole, (0, 0, 0, more), value=UNKNOWN)
        self._token_ids = F.pad(self._token_ids, (0, 0, 0, more), value=UNKNOWN)
        self._children = F.pad(self._children, (0, 0, 0, more), value=UNKNOWN)
        self._log_probs = F.pad(self._log_probs, (0, 0, 0, more))
        self._entropies = F.pad(self._entropies, (0, more))

    @classmethod
    def join(cls, envelopes: Sequence["Envelope"]) -> "Envelope":
        """One envelope of the positions of all, in order."""
        num_ranks = max((each.num_ranks for each in envelopes), default=1)
        joined = cls(sum(each.num_positions for each in envelopes), num_ranks)
        joined._reserve(sum(each.num_nodes for each in envelopes))
        joined.is_ragged = any(e.is_ragged or e.num_ranks < num_ranks for e in envelopes)
        node, position = 0, 0
        for each in envelopes:
            more = num_ranks - each.num_ranks
            parents = torch.where(each.parents < 0, UNKNOWN, each.parents + node)
            joined.add(
                each.positions + position,
                parents,
                each.ranks,
                F.pad(each.token_ids, (0, more), value=UNKNOWN),
                F.pad(each.log_probs, (0, more), value=-torch.inf),
                each.entropies,
            )
            node, position = joined.num_nodes, position + each.num_positions
        return joined
