"""One round at each of many recorded positions: what is drafted, and what the text makes of it.

Shapes: Q positions of all texts, P positions side by side, N drafted nodes, L draft forwards,
R rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.cost.model import CostModel, RoundShapes
from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.round import Drafted, clamp_budget, draft_round
from adaeagle.policy import Outcome, Policy
from adaeagle.trace.positions import Positions
from adaeagle.trace.trace import Trace
from adaeagle.tree import ROOT, DraftTree


@dataclass(frozen=True, slots=True)
class Rounds:
    """What rounds came to, in the units of `adaeagle.records.Round`."""

    rows: Tensor  # [R] int64, the position each begins at
    num_accepted: Tensor  # [R] int64
    num_emitted: Tensor  # [R] int64
    num_drafted: Tensor  # [R] int64
    num_verified: Tensor  # [R] int64
    depth: Tensor  # [R] int64, levels drafted
    widths: Tensor  # [R, L] int64, nodes run by each draft forward
    num_lookups: Tensor  # [R] int64, levels whose children were looked up
    is_tree: Tensor  # [R] bool

    def shapes(self, positions: Positions) -> RoundShapes:
        """What a `CostModel` prices; a round pays for taking in what it emits itself."""
        contexts = positions.num_tokens[self.rows] - 1
        return RoundShapes(
            contexts,
            self.widths,
            self.num_verified,
            self.is_tree,
            self.num_emitted,
            self.num_lookups,
        )

    def take(self, chosen: Tensor) -> "Rounds":
        """Some of the rounds, [R'] int64 or a mask [R]."""
        return Rounds(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def join(cls, parts: "Sequence[Rounds]") -> "Rounds":
        """All rounds of all parts."""
        deepest = max(part.widths.shape[1] for part in parts)
        padded = [
            replace(part, widths=F.pad(part.widths, (0, deepest - part.widths.shape[1])))
            for part in parts
        ]
        return cls(*(torch.cat([getattr(p, field.name) for p in padded]) for field in fields(cls)))


@dataclass(slots=True)
class Played:
    """Rounds side by side, and what a policy that learns is told of them."""

    rounds: Rounds
    drafted: Drafted
    path: Tensor  # [P, L] the drafted nodes that the text goes through, -1 where none
    num_missing: int
    looks_up: bool  # children were looked up, of some levels at least


def play(
    policy: Policy,
    trace: Trace,
    rows: Tensor,
    number: int,
    is_active: Tensor | None = None,
    clock: RoundClock | None = None,
) -> Played:
    """One round at each of the positions `rows` [P]; where it is not active, nothing is drafted."""
    positions = trace.positions
    clock = clock or RoundClock(torch.device("cpu"))
    context = positions.context(rows, number)
    if is_active is not None:
        context = replace(context, remaining=torch.where(is_active, context.remaining, 1))
    proposer = trace.proposer(rows, policy)
    drafted = draft_round(policy, proposer, context, clock)
    tree = drafted.tree
    path, widths = torch.zeros(2, len(rows), 0, dtype=torch.int64)
    if len(tree) > 0:
        path = trace.path(rows, proposer, tree)
        if not tree.is_dense:
            path = path.masked_fill(~tree.valid.gather(1, path.clamp(min=0)), ROOT)
        widths = _widths(proposer.ran(tree))
    rounds = _count(drafted, path, widths, positions, rows, proposer.looks_up)
    clock.ends("other")
    return Played(rounds, drafted, path, proposer.num_missing, proposer.looks_up)


def play_nested(policies: Sequence[Policy], trace: Trace, rows: Tensor) -> list[Rounds]:
    """What `play` makes of policies that nest in each other, who share the deepest one's draft."""
    positions = trace.positions
    context = positions.context(rows, -1)
    budgets = [clamp_budget(policy.plan(context), context.remaining) for policy in policies]
    depths = [int(torch.as_tensor(budget.depth).max()) for budget in budgets]
    whole = play(policies[depths.index(max(depths))], trace, rows, -1)
    rounds = []
    for policy, budget, depth in zip(policies, budgets, depths, strict=True):
        tree = whole.drafted.tree.cut(depth)
        keep = policy.select(tree, budget) if len(tree) > 0 else tree.valid
        path, widths = whole.path[:, :depth], whole.rounds.widths[:, :depth]
        drafted = Drafted(tree, keep, budget)
        rounds.append(_count(drafted, path, widths, positions, rows, whole.looks_up))
    return rounds


def _widths(tree: DraftTree) -> Tensor:
    """The nodes that each forward ran, [P, L]: those that have a first child."""
    if tree.num_levels == 0:
        return torch.zeros(tree.num_rounds, 0, dtype=torch.int64)
    if tree.is_dense:
        return torch.tensor([num for num, _ in tree.levels]).expand(tree.num_rounds, -1)
    widths, start = [], 0
    for num_parents, num_children in tree.levels:
        end = start + num_parents * num_children
        widths.append(tree.valid[:, start:end:num_children].sum(1))
        start = end
    return torch.stack(widths, dim=1)


def _count(
    drafted: Drafted,
    path: Tensor,
    widths: Tensor,
    positions: Positions,
    rows: Tensor,
    looks_up: bool,
) -> Rounds:
    tree, keep, budget = drafted.tree, drafted.keep, drafted.budget
    depth = tree.row_depths
    is_kept = path >= 0
    if path.shape[1] > 0:
        is_kept = is_kept & keep.gather(1, path.clamp(min=0))
    num_accepted = is_kept.long().cumprod(1).sum(1)
    num_drafted = tree.valid.sum(1)
    is_wide = budget.max_children > 1 or budget.width_of(0) > 1
    is_tree = torch.full_like(rows, is_wide, dtype=torch.bool)
    if not tree.is_dense:  # beside trees there may be chains
        is_tree = (num_drafted > depth) | (is_tree & (num_drafted == 0))
    return Rounds(
        rows=rows,
        num_accepted=num_accepted,
        num_emitted=torch.minimum(num_accepted + 1, positions.num_left[rows]),
        num_drafted=num_drafted,
        num_verified=keep.sum(1),
        depth=depth,
        widths=widths,
        # One more level is looked for than is found, unless there may be no more.
        num_lookups=torch.minimum(depth + 1, torch.as_tensor(budget.depth)) * looks_up,
        is_tree=is_tree,
    )


def outcome_of(
    played: Played, is_active: Tensor, positions: Positions, cost: CostModel | None
) -> Outcome:
    """What verification would have found."""
    rounds, drafted = played.rounds, played.drafted
    places = torch.arange(played.path.shape[1])
    is_on_path = places < rounds.num_accepted.unsqueeze(1)
    num_nodes = len(drafted.tree)
    accepted = torch.zeros(len(rounds.rows), num_nodes + 1, dtype=torch.bool)
    # The last column takes what is on no path.
    accepted.scatter_(1, played.path.masked_fill(~is_on_path, num_nodes), True)
    accepted, tree = accepted[:, :num_nodes], drafted.verified()
    if tree is not drafted.tree:
        order = torch.argsort(drafted.keep, dim=1, descending=True, stable=True)
        accepted = accepted.gather(1, order[:, : len(tree)])
    seconds = torch.zeros(2, len(rounds.rows), dtype=torch.float64)
    if cost is not None:
        shapes = rounds.shapes(positions)
        seconds = torch.stack((cost.draft_seconds(shapes), cost.verify_seconds(shapes)))
    return Outcome.of(
        tree,
        accepted,
        positions.num_left[rounds.rows] * is_active,
        depth=rounds.depth,
        draft_seconds=seconds[0] * is_active,
        verify_seconds=seconds[1] * is_active,
    )
