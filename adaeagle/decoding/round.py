"""One round of drafting, written once: for decoding, for recording, for replay and for tests.

    plan → (expand → propose)* → select

Shapes: P rounds side by side, F frontier nodes, W opened nodes, C children of each, N nodes.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from adaeagle.decoding.clock import RoundClock
from adaeagle.policy import Budget, Context, Policy
from adaeagle.tree import ROOT, DraftTree, Level


class Proposer(Protocol):
    """Where children come from: a draft session, or what was recorded of one."""

    @property
    def is_drawn(self) -> bool:
        """Children are drawn at random, so that each of them must be verified."""
        ...

    @property
    def max_depth(self) -> int | None:
        """Most levels that there can be; None: any number."""
        ...

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        """The best `num_ranks` children of `rows` [P, W] (-1: the root).

        Rows that get 0 of `num_children` [P, W] are padding; None: there is none. The level says
        how many children each row really gets.
        """
        ...


@dataclass(frozen=True, slots=True)
class Drafted:
    """What a round drafted, and what of it is to be verified."""

    tree: DraftTree  # everything drafted
    keep: Tensor  # [P, N] bool, closed under parents
    budget: Budget  # as it was clamped

    def verified(self, num_rows: int | None = None) -> DraftTree:
        """The nodes to verify alone.

        Args:
            num_rows: most of any round, where it is known; None: the device is asked.
        """
        if self.keep is self.tree.valid and self.tree.is_dense:
            return self.tree
        most = int(self.keep.sum(1).max()) if num_rows is None else num_rows
        return self.tree.take(self.keep, most)


def draft_round(policy: Policy, proposer: Proposer, context: Context, clock: RoundClock) -> Drafted:
    """Asks the policy where to go on, and the proposer what follows, until either has enough.

    Time spent in the policy and in proposing is put down on the clock.
    """
    clock.ends("other")
    budget = clamp_budget(policy.plan(context), context.remaining, proposer.max_depth)
    clock.ends("policy")
    device = context.token_ids.device
    tree = grow_tree(policy, proposer, budget, len(context.remaining), device, clock)
    # A drawn token must be verified: leaving it out would change the distribution of the text.
    is_whole = proposer.is_drawn or len(tree) == 0
    keep = tree.valid if is_whole else policy.select(tree, budget)
    clock.ends("policy")
    return Drafted(tree, keep, budget)


def grow_tree(
    policy: Policy,
    proposer: Proposer,
    budget: Budget,
    num_rounds: int,
    device: torch.device,
    clock: RoundClock,
) -> DraftTree:
    """The tree of one round, level by level, until the policy or the budget ends it."""
    tree = DraftTree.empty(num_rounds, device)
    frontier = torch.full((num_rounds, 1), ROOT, dtype=torch.int64, device=device)
    depths = budget.depth
    for level in range(depths if isinstance(depths, int) else int(depths.max())):
        num_children = policy.expand(tree, frontier, budget)
        if not tree.is_dense:  # padding has no children, whatever the policy says
            num_children = num_children * tree.valid.gather(1, frontier)
        if not isinstance(depths, int):
            num_children = num_children * (depths.to(device) > level).unsqueeze(1)
        # Ready-made children may run out: where there is padding the device has to be asked.
        is_static = policy.static_shape and isinstance(depths, int) and tree.is_dense
        opened = open_nodes(frontier, num_children, budget, level, is_static)
        clock.ends("policy")
        if opened is None:
            break
        rows, counts = opened
        proposed = proposer.propose(tree, rows, budget.max_children, counts)
        num_before, tree = len(tree), tree.grow(proposed)
        frontier = torch.arange(num_before, len(tree), device=device).expand(num_rounds, -1)
        clock.ends("draft")
    return tree


def clamp_budget(budget: Budget, remaining: Tensor, max_depth: int | None = None) -> Budget:
    """A round of depth d emits up to d + 1 tokens: no deeper than what may still be emitted.

    Args:
        budget: as it was planned.
        remaining: [P] int64, on the CPU.
        max_depth: most levels that the drafter has; None: any number.
    """
    most = remaining - 1
    if max_depth is not None:
        most = most.clamp(max=max_depth)
    if isinstance(budget.depth, int):
        if budget.depth <= int(most.min()):
            return budget
        depth = most.clamp(max=budget.depth)
    else:
        depth = torch.minimum(budget.depth.cpu(), most)
    # One number where there is one round, so that a shape that is static stays so.
    return replace(budget, depth=int(depth) if len(depth) == 1 else depth)


def open_nodes(
    frontier: Tensor, num_children: Tensor, budget: Budget, level: int, is_static: bool
) -> tuple[Tensor, Tensor | None] | None:
    """The frontier nodes to go on from, and how many children each gets.

    Args:
        frontier: [P, F] rows of the latest level.
        num_children: [P, F] int64 as the policy wishes; 0 closes a node.
        budget: limits of the round.
        level: counted from 0.
        is_static: every round opens as many nodes as the budget says: the device is not asked.

    Returns:
        rows [P, W] and counts [P, W], None where every opened node gets all of `max_children`; or
        None where no node is open.
    """
    width, most = budget.width_of(level), budget.max_children
    if is_static:
        num_open, is_full = min(width, frontier.shape[1]), most == 1
    else:
        # One host sync a level: a policy that may stop decides how wide it is.
        open_counts = (num_children > 0).sum(1)
        num_full = (num_children >= most).sum(1)
        least, num_open, fewest_full = torch.stack(
            (open_counts.amin(), open_counts.amax(), num_full.amin())
        ).tolist()
        if num_open == 0:
            return None
        is_full = least == num_open == fewest_full and num_open <= width
        num_open = min(num_open, width)
    if num_open < frontier.shape[1]:
        order = torch.argsort(num_children > 0, dim=1, descending=True, stable=True)[:, :num_open]
        frontier, num_children = frontier.gather(1, order), num_children.gather(1, order)
    return frontier, None if is_full else num_children.clamp(max=most)
