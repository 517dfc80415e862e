"""Proposes children from what was recorded; what was not is drafted, or refused.

Shapes: P positions side by side, N drafted nodes, W opened nodes, C children of each, R ranks.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.decoding.round import Proposer
from adaeagle.policy import NOTHING, Needs
from adaeagle.trace.envelope import UNKNOWN, Envelope
from adaeagle.trace.expander import Expander
from adaeagle.trace.text_paths import Ints
from adaeagle.tree import DraftTree, Level


class NotRecordedError(LookupError):
    """A replayed policy asked for a node that the trace does not hold."""


class ReplayProposer(Proposer, Protocol):
    """Proposes at recorded positions."""

    @property
    def num_missing(self) -> int:
        """Nodes that had to be drafted."""
        ...

    @property
    def runs(self) -> list[Ints] | None:
        """[P, W] of each forward: the envelope's nodes that were run; None: others were."""
        ...

    @property
    def looks_up(self) -> bool:
        """Whether children are looked up, of some levels at least."""
        ...

    def ran(self, tree: DraftTree) -> DraftTree:
        """What of a drafted tree a draft network has proposed."""
        ...


class RecordedProposer:
    """Stands in for the draft model at recorded positions, where texts are greedy.

    Args:
        envelope: what was recorded.
        rows: [P] int64 positions of the envelope, each once.
        expander: gives what drafts the nodes that were not recorded; None: they are refused.
        vocab_size: children that a node can have at most.
        needs: what else of the draft distributions levels give.
    """

    is_drawn = False
    max_depth = None
    looks_up = False

    def __init__(
        self,
        envelope: Envelope,
        rows: Tensor,
        expander: Callable[[], Expander] | None,
        vocab_size: int,
        needs: Needs = NOTHING,
    ) -> None:
        self._envelope = envelope
        self._rows = rows
        self._here = np.arange(len(rows))[:, None]
        self._expander = expander
        self._vocab_size = vocab_size
        self._needs = needs
        # The children of the nodes that the latest forward ran: the tree's last level.
        self._children = envelope.roots[rows].view(-1, 1).numpy()  # [P, W*C]
        self._num_ranks = 1  # C
        self.runs: list[Ints] = []
        self.num_missing = 0
        """Nodes that had to be drafted."""

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        # Rounds are a few hundred numbers each, which NumPy looks up in a third of the time.
        num_ranks = min(num_ranks, self._vocab_size)
        num_best = max(num_ranks, min(self._needs.num_confidences, self._vocab_size))
        if num_best > self._envelope.num_ranks:
            self._envelope.widen(num_best)
        nodes = self._children
        if rows.shape[1] < nodes.shape[1]:  # else all of the level
            nodes = nodes[self._here, self._columns(tree, rows)]
        is_open = None if num_children is None else num_children.numpy() > 0
        absent = nodes < 0 if is_open is None else (nodes < 0) & is_open
        if absent.any():
            nodes[absent] = self._draft(tree, rows, absent)
        envelope = self._envelope
        if envelope.is_ragged:
            self._widen(nodes if is_open is None else nodes[is_open], num_best, tree)
        known = nodes if is_open is None else np.maximum(nodes, 0)
        first = known * envelope.num_ranks

        def look_up(values: Tensor, count: int = num_ranks) -> npt.NDArray[Any]:  # → [P, W, C]
            if count == 1:
                return values.view(-1).numpy().take(first)[:, :, None]
            return values.numpy().take(known, axis=0)[:, :, :count]

        self.runs.append(nodes)
        self._children = look_up(envelope.children).reshape(len(nodes), -1)
        self._num_ranks = num_ranks
        entropies = confidences = None
        if self._needs.entropy:
            entropies = torch.from_numpy(envelope.entropies.numpy().take(known))
        if self._needs.num_confidences:
            count = min(num_best, self._needs.num_confidences)
            confidences = torch.from_numpy(look_up(envelope.log_probs, count))
            missing = self._needs.num_confidences - count
            confidences = F.pad(confidences, (0, missing), value=-torch.inf)
        return Level(
            rows,
            torch.from_numpy(look_up(envelope.token_ids)),
            torch.from_numpy(look_up(envelope.log_probs)),
            num_children=num_children,
            entropies=entropies,
            confidences=confidences,
        )

    def ran(self, tree: DraftTree) -> DraftTree:
        return tree

    def _columns(self, tree: DraftTree, rows: Tensor) -> Ints:
        """Rows of the last level [P, W], counted from its first."""
        columns: Ints = rows.numpy() + (self._children.shape[1] - len(tree) if len(tree) else 1)
        return columns

    def _draft(self, tree: DraftTree, rows: Tensor, absent: npt.NDArray[np.bool_]) -> Ints:
        """Drafts nodes of the last level: [P, W] rows of the tree, those that are `absent`."""
        expander = self._may_draft(int(absent.sum()), tree)
        place = absent.nonzero()[0]
        column = self._columns(tree, rows)[absent]
        parents, ranks = np.full_like(column, UNKNOWN), np.zeros_like(column)
        if len(tree) > 0:  # else it is the root that was not recorded
            family, ranks = np.divmod(column, self._num_ranks)
            parents = self.runs[-1][place, family]
        where = self._rows.numpy()[place], parents, ranks
        found: Ints = expander.add(*map(torch.from_numpy, where)).numpy()
        return found

    def _widen(self, nodes: Ints, num_ranks: int, tree: DraftTree) -> None:
        """Drafts `nodes` again where fewer children were recorded than are asked for."""
        nodes = nodes.ravel()
        is_short = self._envelope.token_ids.numpy()[nodes, num_ranks - 1] == UNKNOWN
        short = np.unique(nodes[is_short])
        if len(short) > 0:
            self._may_draft(len(short), tree).widen(torch.from_numpy(short))

    def _may_draft(self, num_missing: int, tree: DraftTree) -> Expander:
        self.num_missing += num_missing
        if self._expander is None:
            raise NotRecordedError(
                f"{num_missing} nodes of draft forward {tree.num_levels + 1} were not recorded"
            )
        return self._expander()
