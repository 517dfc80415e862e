"""What a draft network and a look-up propose, united by parent and token.

Shapes: P texts side by side, N nodes of the joint tree, W opened nodes, C children of each.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from adaeagle.decoding.proposals import LiveProposer
from adaeagle.decoding.round import Proposer
from adaeagle.policy import Needs
from adaeagle.tree import ROOT, UNLIKELY, DraftTree, Level

ABSENT = -2
"""Where a node of the joint tree is none of a proposer's own."""


class ChoosesNetwork(Protocol):
    """What of a policy this has to know."""

    @property
    def needs(self) -> Needs: ...

    def runs_network(self, tree: DraftTree, rows: Tensor, found: Level) -> Tensor | bool: ...


@dataclass(frozen=True, slots=True)
class _Children:
    """What one of the two proposes after the opened nodes."""

    rows: Tensor  # [P, W, C] int64 of its own tree, ABSENT where there is no child
    token_ids: Tensor  # [P, W, C] int64
    log_probs: Tensor  # [P, W, C] float32, as the joint tree has them
    scores: Tensor  # [P, W, C] float32; minus infinity where the look-up did not propose it
    entropies: Tensor | None = None  # [P, W]
    confidences: Tensor | None = None  # [P, W, K]

    @property
    def valid(self) -> Tensor:
        return self.rows != ABSENT


class _Own:
    """One of the two, with the tree of what it has proposed itself: it goes on from nothing else.

    Args:
        proposer: of which only deterministic children are taken.
    """

    def __init__(self, proposer: Proposer) -> None:
        self.proposer = proposer
        self.tree: DraftTree | None = None
        self._places = torch.empty(0)  # [P, 1 + N] where the root and each joint node stand in it

    def children(self, rows: Tensor, num_ranks: int, num_children: Tensor) -> _Children:
        """Runs those of the joint tree's `rows` [P, W] that are its own and get any children."""
        if self.tree is None:
            self.tree = DraftTree.empty(len(rows), rows.device)
            self._places = torch.full_like(rows, ROOT)
        places = self._places.gather(1, rows + 1)
        counts = num_children * (places != ABSENT)
        width = int((counts > 0).sum(1).max())
        is_over = self.tree.num_levels == self.proposer.max_depth
        if width == 0 or is_over:
            none = torch.full_like(rows, ABSENT).unsqueeze(2)
            scores = torch.full_like(none, -torch.inf, dtype=torch.float32)
            return _Children(none, torch.zeros_like(none), scores, scores)
        order = torch.argsort(counts > 0, dim=1, descending=True, stable=True)[:, :width]
        opened, counts = places.gather(1, order), counts.gather(1, order)
        # Where fewer are open than in another text, any node of the level fills the gap.
        opened = torch.where(opened == ABSENT, len(self.tree) - 1, opened)
        is_full = bool((counts >= num_ranks).all())
        level = self.proposer.propose(self.tree, opened, num_ranks, None if is_full else counts)
        first, self.tree = len(self.tree), self.tree.grow(level)
        return self._spread(level, first, order, rows.shape[1])

    def _spread(self, level: Level, first: int, order: Tensor, width: int) -> _Children:
        """The level's children at the places [P, W] of the joint rows that they hang from."""
        assert self.tree is not None
        shape = level.token_ids.shape
        own = torch.arange(first, len(self.tree), device=order.device).expand(shape[0], -1)
        own = own.masked_fill(~self.tree.valid[:, first:], ABSENT).view(shape)

        def at_rows(values: Tensor, fill: float) -> Tensor:
            whole = values.new_full((shape[0], width, *values.shape[2:]), fill)
            index = order.view(*order.shape, *[1] * (values.ndim - 2)).expand_as(values)
            return whole.scatter(1, index, values)

        scores, log_probs = level.scores, level.log_probs
        if scores is None:
            scores = torch.full_like(log_probs, -torch.inf)
        return _Children(
            at_rows(own, ABSENT),
            at_rows(level.token_ids, 0),
            at_rows(log_probs, UNLIKELY),
            at_rows(scores, -torch.inf),
            # Of nodes that are not run nothing is known: they count as undecided.
            None if level.entropies is None else at_rows(level.entropies, -UNLIKELY),
            None if level.confidences is None else at_rows(level.confidences, -torch.inf),
        )

    def add(self, rows: Tensor) -> None:
        """Notes where the joint tree's new nodes stand: [P, W, C]."""
        self._places = torch.cat((self._places, rows.flatten(1)), dim=1)


class MergedProposer:
    """Proposes for each node what a network and a look-up do, each after nodes of its own.

    The look-up is tried first; the policy sees what it found and says which nodes the network is
    run after. A network goes on from a node only where it was run at the node's parent.

    Args:
        network: proposes distributions' likeliest tokens.
        lookup: proposes ready-made children.
        policy: chooses.
    """

    is_drawn = False
    max_depth = None
    distributions = None

    def __init__(self, network: Proposer, lookup: Proposer, policy: ChoosesNetwork) -> None:
        self._network, self._lookup = _Own(network), _Own(lookup)
        self._policy = policy

    @property
    def network_tree(self) -> DraftTree | None:
        """What the network itself has proposed; None: it was not run."""
        return self._network.tree

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        counts = torch.full_like(rows, num_ranks) if num_children is None else num_children
        found = self._lookup.children(rows, num_ranks, counts)
        runs = self._policy.runs_network(tree, rows, _level(rows, found))
        drafted = self._network.children(rows, num_ranks, counts * runs)
        joint, own, looked_up = _united(drafted, found)
        level = self._completed(_level(rows, joint))
        width = level.token_ids.shape[2]
        self._network.add(own[..., :width])
        self._lookup.add(looked_up[..., :width])
        return level

    def _completed(self, level: Level) -> Level:
        """The level with whatever is read of distributions, also where the network was not run."""
        needs, like = self._policy.needs, level.log_probs[..., 0]
        if needs.entropy and level.entropies is None:
            level = replace(level, entropies=torch.full_like(like, -UNLIKELY))
        if needs.num_confidences and level.confidences is None:
            shape = (*like.shape, needs.num_confidences)
            level = replace(level, confidences=like.new_full(shape, -torch.inf))
        return level


class LiveMerged(MergedProposer):
    """Proposes from two draft sessions."""

    def __init__(self, network: LiveProposer, lookup: LiveProposer, policy: ChoosesNetwork) -> None:
        super().__init__(network, lookup, policy)
        self._parts = network, lookup

    @property
    def num_forwards(self) -> int:
        """Forwards of a draft network so far."""
        return sum(part.num_forwards for part in self._parts)


def _united(network: _Children, lookup: _Children) -> tuple[_Children, Tensor, Tensor]:
    """Both, a token once: and where each child stands in the tree of either, [P, W, C]."""
    same = network.token_ids.unsqueeze(3) == lookup.token_ids.unsqueeze(2)
    same &= network.valid.unsqueeze(3) & lookup.valid.unsqueeze(2)  # [P, W, C of each]
    is_twin, twin = same.any(3), same.long().argmax(3)
    alone = lookup.rows.masked_fill(same.any(2), ABSENT)

    def joined(mine: Tensor, others: Tensor) -> Tensor:
        return torch.cat((mine, others), dim=2)

    own = joined(network.rows, torch.full_like(alone, ABSENT))
    looked_up = joined(lookup.rows.gather(2, twin).masked_fill(~is_twin, ABSENT), alone)
    scores = lookup.scores.gather(2, twin).masked_fill(~is_twin, -torch.inf)
    is_child = (own != ABSENT) | (looked_up != ABSENT)
    order = torch.argsort(is_child, dim=2, descending=True, stable=True)
    own, looked_up, token_ids, log_probs, scores = (
        values.gather(2, order)
        for values in (
            own,
            looked_up,
            joined(network.token_ids, lookup.token_ids),
            joined(network.log_probs, lookup.log_probs),
            joined(scores, lookup.scores),
        )
    )
    rows = torch.maximum(own, looked_up)
    joint = _Children(rows, token_ids, log_probs, scores, network.entropies, network.confidences)
    return joint, own, looked_up


def _level(rows: Tensor, children: _Children) -> Level:
    """The children that there are, as a level; they stand in front of what is none."""
    counts = children.valid.sum(2)
    most = max(1, int(counts.max()))
    return Level(
        rows,
        children.token_ids[..., :most],
        children.log_probs[..., :most],
        num_children=counts,
        entropies=children.entropies,
        confidences=children.confidences,
        scores=children.scores[..., :most],
    )
