"""Proposes children from what was recorded; what was not is drafted, or refused.

Shapes: P positions side by side, N drafted nodes, W opened nodes, C children of each, R ranks.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from adaeagle.trace.envelope import UNKNOWN, Envelope
from adaeagle.trace.expander import Expander
from adaeagle.tree import DraftTree, Level


class NotRecordedError(LookupError):
    """A replayed policy asked for a node that the trace does not hold."""


class RecordedProposer:
    """Stands in for the draft model at recorded positions.

    Args:
        envelope: what was recorded.
        rows: [P] int64 positions of the envelope, each once.
        expander: gives what drafts the nodes that were not recorded; None: they are refused.
        vocab_size: children that a node can have at most.
    """

    def __init__(
        self,
        envelope: Envelope,
        rows: Tensor,
        expander: Callable[[], Expander] | None,
        vocab_size: int,
    ) -> None:
        self._envelope = envelope
        self._rows = rows
        self._expander = expander
        self._vocab_size = vocab_size
        # [P, 1 + N] the envelope's node of the root and of every drafted node.
        self._nodes = envelope.roots[rows].unsqueeze(1)
        self.num_missing = 0
        """Nodes that had to be drafted."""

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        num_ranks = min(num_ranks, self._vocab_size)
        if num_ranks > self._envelope.num_ranks:
            self._envelope.widen(num_ranks)
        nodes = self._nodes.gather(1, rows + 1)  # [P, W]
        is_open = None if num_children is None else num_children > 0
        absent = nodes < 0 if is_open is None else (nodes < 0) & is_open
        if absent.any():
            nodes = self._draft(tree, rows, nodes, absent)
        if self._envelope.is_ragged:
            self._widen(nodes if is_open is None else nodes[is_open], num_ranks, tree)
        known = nodes.clamp(min=0).flatten()
        shape = (*nodes.shape, num_ranks)

        def look_up(values: Tensor) -> Tensor:  # [E, R] → [P, W, C]
            return values.index_select(0, known)[:, :num_ranks].view(shape)

        envelope = self._envelope
        children = look_up(envelope.children)
        if is_open is not None:
            children = children.masked_fill(~is_open.unsqueeze(2), UNKNOWN)
        self._nodes = torch.cat((self._nodes, children.flatten(1)), dim=1)
        entropies = envelope.entropies.index_select(0, known).view(nodes.shape)
        return Level(
            rows, look_up(envelope.token_ids), look_up(envelope.log_probs), entropies=entropies
        )

    def _draft(self, tree: DraftTree, rows: Tensor, nodes: Tensor, absent: Tensor) -> Tensor:
        """The nodes of `rows` [P, W], drafted where they are `absent`."""
        expander = self._may_draft(int(absent.sum()), tree)
        place, column = absent.nonzero().unbind(1)
        row = rows[place, column]
        parents, ranks = torch.full_like(row, UNKNOWN), torch.zeros_like(row)
        if len(tree) > 0:  # else it is the root that was not recorded
            parents = self._nodes[place, tree.parents[place, row] + 1]
            ranks = tree.ranks[place, row]
        new = expander.add(self._rows[place], parents, ranks)
        self._nodes[place, row + 1] = new
        return nodes.masked_scatter(absent, new)

    def _widen(self, nodes: Tensor, num_ranks: int, tree: DraftTree) -> None:
        """Drafts `nodes` again where fewer children were recorded than are asked for."""
        nodes = nodes.flatten()
        is_short = self._envelope.token_ids[nodes, num_ranks - 1] == UNKNOWN
        short = torch.unique(nodes[is_short])
        if len(short) > 0:
            self._may_draft(len(short), tree).widen(short)

    def _may_draft(self, num_missing: int, tree: DraftTree) -> Expander:
        self.num_missing += num_missing
        if self._expander is None:
            raise NotRecordedError(
                f"{num_missing} nodes of draft forward {tree.num_levels + 1} were not recorded"
            )
        return self._expander()
