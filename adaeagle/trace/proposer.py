"""Proposes children from what was recorded; what was not is drafted, or refused.

Shapes: P positions side by side, N drafted nodes, W opened nodes, C children of each, R ranks.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

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
        needs_entropy: give `Level.entropies`.
        num_confidences: of `Level.confidences`.
    """

    def __init__(
        self,
        envelope: Envelope,
        rows: Tensor,
        expander: Callable[[], Expander] | None,
        vocab_size: int,
        needs_entropy: bool = False,
        num_confidences: int = 0,
    ) -> None:
        self._envelope = envelope
        self._rows = rows
        self._expander = expander
        self._vocab_size = vocab_size
        self._needs_entropy = needs_entropy
        self._num_confidences = num_confidences
        # The envelope's nodes that the latest forward ran, and their children: those of the tree's
        # last level.
        self._run = torch.empty(0, 0, dtype=torch.int64)  # [P, W]
        self._children = envelope.roots[rows].view(-1, 1, 1)  # [P, W, C]
        self.num_missing = 0
        """Nodes that had to be drafted."""

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        num_ranks = min(num_ranks, self._vocab_size)
        num_best = max(num_ranks, min(self._num_confidences, self._vocab_size))
        if num_best > self._envelope.num_ranks:
            self._envelope.widen(num_best)
        level = self._children.flatten(1)
        columns = rows + (level.shape[1] - len(tree) if len(tree) > 0 else 1)
        nodes = level.gather(1, columns)  # [P, W]
        is_open = None if num_children is None else num_children > 0
        absent = nodes < 0 if is_open is None else (nodes < 0) & is_open
        if absent.any():
            nodes = nodes.masked_scatter(absent, self._draft(tree, columns, absent))
        envelope = self._envelope
        if envelope.is_ragged:
            self._widen(nodes if is_open is None else nodes[is_open], num_best, tree)
        known = (nodes if is_open is None else nodes.clamp(min=0)).flatten()

        def look_up(values: Tensor, count: int = num_ranks) -> Tensor:  # [E, R] → [P, W, C]
            if count == 1:
                return values[:, 0].index_select(0, known).view(*nodes.shape, 1)
            return values.index_select(0, known)[:, :count].view(*nodes.shape, count)

        self._run, self._children = nodes, look_up(envelope.children)
        entropies = confidences = None
        if self._needs_entropy:
            entropies = envelope.entropies.index_select(0, known).view(nodes.shape)
        if self._num_confidences:
            confidences = look_up(envelope.log_probs, min(num_best, self._num_confidences))
            missing = self._num_confidences - confidences.shape[2]
            confidences = F.pad(confidences, (0, missing), value=-torch.inf)
        return Level(
            rows,
            look_up(envelope.token_ids),
            look_up(envelope.log_probs),
            entropies=entropies,
            confidences=confidences,
        )

    def _draft(self, tree: DraftTree, columns: Tensor, absent: Tensor) -> Tensor:
        """Drafts nodes of the last level: [P, W] columns of it, those that are `absent`."""
        expander = self._may_draft(int(absent.sum()), tree)
        place = absent.nonzero()[:, 0]
        column = columns[absent]
        parents, ranks = torch.full_like(column, UNKNOWN), torch.zeros_like(column)
        if len(tree) > 0:  # else it is the root that was not recorded
            num_ranks = self._children.shape[2]
            parents, ranks = self._run[place, column // num_ranks], column % num_ranks
        return expander.add(self._rows[place], parents, ranks)

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
