"""Replays a policy on a trace: the rounds it would have run, without target or draft model.

At temperature 0 the text does not depend on the policy, so a round's outcome depends only on the
position it begins at (and, for a policy that learns, on what it has learned). The policy is asked
through the same hooks as live, for many positions side by side.

Shapes: T texts, Q positions of all texts, P positions side by side, N drafted nodes, L draft
forwards, R rounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.clock import RoundClock
from adaeagle.cost import CostModel, RoundShapes
from adaeagle.drafting import clamp_budget, draft
from adaeagle.policy import Budget, Outcome, Policy
from adaeagle.trace.positions import Positions
from adaeagle.trace.trace import Trace
from adaeagle.tree import DraftTree

MAX_ROUNDS = 1024
"""Rounds evaluated side by side: bounds memory."""
MIN_ROUNDS = 256
"""Rounds evaluated side by side where there is a choice: fewer are not worth the calls."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """What rounds came to, in the units of `adaeagle.records.Round`."""

    rows: Tensor  # [R] int64, the position each begins at
    num_accepted: Tensor  # [R] int64
    num_emitted: Tensor  # [R] int64
    num_drafted: Tensor  # [R] int64
    num_verified: Tensor  # [R] int64
    widths: Tensor  # [R, L] int64, nodes run by each draft forward
    is_tree: Tensor  # [R] bool

    @property
    def depth(self) -> Tensor:
        """[R] int64, draft forwards made."""
        return (self.widths > 0).sum(1)

    def shapes(self, positions: Positions) -> RoundShapes:
        """What a `CostModel` prices."""
        contexts = positions.num_tokens[self.rows] - 1
        return RoundShapes(contexts, self.widths, self.num_verified, self.is_tree)

    def take(self, chosen: Tensor) -> "Rounds":
        """Some of the rounds, [R'] int64 or a mask [R]."""
        return Rounds(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def join(cls, parts: "list[Rounds]") -> "Rounds":
        """All rounds of all parts."""
        deepest = max(part.widths.shape[1] for part in parts)
        padded = [
            replace(part, widths=F.pad(part.widths, (0, deepest - part.widths.shape[1])))
            for part in parts
        ]
        return cls(*(torch.cat([getattr(p, field.name) for p in padded]) for field in fields(cls)))


@dataclass(frozen=True, slots=True)
class Replayed:
    """A policy on every text of a trace."""

    rounds: Rounds  # text by text, in the order in which they were run
    num_missing: int  # nodes that were not recorded and had to be drafted


@dataclass(slots=True)
class _Played:
    """Rounds side by side, and what a policy that learns is told of them."""

    rounds: Rounds
    tree: DraftTree
    keep: Tensor  # [P, N] bool
    path: Tensor  # [P, L] the drafted nodes that the text goes through, -1 where none
    num_missing: int


def replay(policy: Policy, trace: Trace, cost: CostModel | None = None) -> Replayed:
    """Runs every text of a trace under a policy.

    A policy that learns within a text is run on all texts in step, one that learns across texts on
    one text after another, any other at many positions at once.

    Args:
        policy: begins in the state it is in.
        trace: what is replayed.
        cost: gives policies that learn from seconds their clock; None: it stands still.

    Raises:
        NotRecordedError: the policy asks for what the trace neither holds nor can draft.
    """
    if not policy.learns:
        return _anywhere(policy, trace)
    if not policy.state_dict():
        return _in_step(policy, trace, torch.arange(len(trace.texts)), cost)
    each = [
        _in_step(policy, trace, text, cost)
        for text in torch.split(torch.arange(len(trace.texts)), 1)
    ]
    missing = sum(one.num_missing for one in each)
    return Replayed(Rounds.join([one.rounds for one in each]), missing)


def replay_everywhere(policy: Policy, trace: Trace) -> Replayed:
    """The round of a policy that does not learn at every position, in order: R = Q."""
    policy.reset()
    rows = torch.split(torch.arange(len(trace.positions)), MAX_ROUNDS)
    played = [_play(policy, trace, part, -1) for part in rows]
    missing = sum(one.num_missing for one in played)
    return Replayed(Rounds.join([one.rounds for one in played]), missing)


def _anywhere(policy: Policy, trace: Trace) -> Replayed:
    """Evaluates rounds wherever texts can get to, then reads off where they do.

    A text is begun at its start and at some positions further on: what is evaluated once is not
    again, and paths from different starts soon meet.
    """
    policy.reset()
    positions = trace.positions
    num_texts, num_positions = len(trace.texts), len(positions)
    round_of = torch.full((num_positions + 1,), -1)  # the last entry: where texts end
    starts = positions.starts[:-1][positions.starts.diff() > 0]
    stride = max(1, num_positions // max(1, MIN_ROUNDS - num_texts))
    front = torch.unique(torch.cat((starts, torch.arange(0, num_positions, stride))))
    parts: list[Rounds] = []
    num_rounds = num_missing = 0
    while len(front) > 0:
        nexts = []
        for rows in torch.split(front, MAX_ROUNDS):
            played = _play(policy, trace, rows, -1)
            parts.append(played.rounds)
            num_missing += played.num_missing
            round_of[rows] = torch.arange(num_rounds, num_rounds + len(rows))
            num_rounds += len(rows)
            nexts.append(_next(played.rounds, positions))
        reached = torch.unique(torch.cat(nexts))
        front = reached[(reached < num_positions) & (round_of[reached] < 0)]
    rounds = Rounds.join(parts)
    visited, here = [], starts
    after = _next(rounds, positions)
    while len(here) > 0:
        visited.append(here)
        here = after[round_of[here]]
        here = here[here < num_positions]
    order = torch.cat(visited).sort().values  # positions are numbered text by text
    return Replayed(rounds.take(round_of[order]), num_missing)


def _next(rounds: Rounds, positions: Positions) -> Tensor:
    """[R] the position after each round; Q where it ended its text."""
    goes_on = rounds.num_emitted < positions.num_left[rounds.rows]
    return torch.where(goes_on, rounds.rows + rounds.num_emitted, len(positions))


def _in_step(policy: Policy, trace: Trace, texts: Tensor, cost: CostModel | None) -> Replayed:
    """Runs texts [P] side by side, a round of each in turn; the policy observes them together."""
    policy.reset()
    positions = trace.positions
    here, ends = positions.starts[texts], positions.starts[texts + 1]
    parts: list[Rounds] = []
    num_missing = 0
    while (is_active := here < ends).any():
        # A text at its end keeps its place beside the others; it drafts and teaches nothing.
        rows = torch.where(is_active, here, ends - 1)
        played = _play(policy, trace, rows, len(parts), is_active)
        num_missing += played.num_missing
        policy.observe(_outcome(played, is_active, positions, cost))
        parts.append(played.rounds.take(is_active))
        here = torch.where(is_active, here + played.rounds.num_emitted, here)
    rounds = Rounds.join(parts)
    return Replayed(rounds.take(rounds.rows.argsort()), num_missing)


def _play(
    policy: Policy, trace: Trace, rows: Tensor, number: int, is_active: Tensor | None = None
) -> _Played:
    """One round at each of the positions `rows` [P]."""
    positions, device = trace.positions, torch.device("cpu")
    context = positions.context(rows, number)
    budget = clamp_budget(policy.plan(context), context.remaining)
    if is_active is not None:
        depth = torch.as_tensor(budget.depth).expand(len(rows)) * is_active
        budget = replace(budget, depth=depth if len(rows) > 1 else int(depth))
    proposer = trace.proposer(rows)
    tree = draft(policy, proposer, budget, len(rows), device, RoundClock(device))
    keep = policy.select(tree, budget) if len(tree) > 0 else tree.valid
    path, widths = _followed(tree, positions, rows)
    rounds = _count(tree, keep, path, widths, positions, rows, budget)
    return _Played(rounds, tree, keep, path, proposer.num_missing)


def _followed(tree: DraftTree, positions: Positions, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The nodes that the text goes through, and the nodes that each forward ran: both [P, L]."""
    node = torch.full_like(rows, -1)
    path, widths = [], []
    end = 0
    for depth, size in enumerate(_level_sizes(tree), start=1):
        start, end = end, end + size
        valid, parents = tree.valid[:, start:end], tree.parents[:, start:end]
        widths.append((valid & (tree.ranks[:, start:end] == 0)).sum(1))
        said = positions.expected(rows, depth).unsqueeze(1)
        match = (tree.token_ids[:, start:end] == said) & (parents == node.unsqueeze(1)) & valid
        found, column = match.max(dim=1)
        # -2 is nobody's parent: the path ends here.
        node = torch.where(found, column + start, -2)
        path.append(node)
    if not path:
        return rows.new_empty(len(rows), 0), rows.new_zeros(len(rows), 0)
    return torch.stack(path, dim=1).clamp(min=-1), torch.stack(widths, dim=1)


def _level_sizes(tree: DraftTree) -> list[int]:
    """How many columns each level of a tree has; the rounds side by side share them."""
    if len(tree) == 0:
        return []
    return torch.bincount(tree.depths[0], minlength=tree.num_levels + 1)[1:].tolist()


def _count(
    tree: DraftTree,
    keep: Tensor,
    path: Tensor,
    widths: Tensor,
    positions: Positions,
    rows: Tensor,
    budget: Budget,
) -> Rounds:
    is_kept = path >= 0
    if path.shape[1] > 0:
        is_kept = is_kept & keep.gather(1, path.clamp(min=0))
    num_accepted = is_kept.long().cumprod(1).sum(1)
    is_wide = budget.max_children > 1 or budget.width_of(0) > 1
    return Rounds(
        rows=rows,
        num_accepted=num_accepted,
        num_emitted=torch.minimum(num_accepted + 1, positions.num_left[rows]),
        num_drafted=tree.valid.sum(1),
        num_verified=keep.sum(1),
        widths=widths,
        is_tree=torch.full_like(rows, is_wide, dtype=torch.bool),
    )


def _outcome(
    played: _Played, is_active: Tensor, positions: Positions, cost: CostModel | None
) -> Outcome:
    """What verification would have found."""
    rounds, keep = played.rounds, played.keep
    num_accepted = rounds.num_accepted * is_active
    places = torch.arange(played.path.shape[1])
    is_on_path = places < num_accepted.unsqueeze(1)
    accepted = torch.zeros(len(rounds.rows), len(played.tree) + 1, dtype=torch.bool)
    # The last column takes what is on no path.
    accepted.scatter_(1, played.path.masked_fill(~is_on_path, len(played.tree)), True)
    accepted = accepted[:, :-1]
    # Nothing was tested below the token that ends a text.
    reached = accepted & (played.tree.depths < positions.num_left[rounds.rows].unsqueeze(1))
    reached = torch.cat((is_active.unsqueeze(1), reached), dim=1)
    tested = reached.gather(1, played.tree.parents + 1) & keep
    width = int(rounds.num_verified.max())
    order = torch.argsort(keep, dim=1, descending=True, stable=True)[:, :width]
    seconds = torch.zeros(2, len(rounds.rows), dtype=torch.float64)
    if cost is not None:
        shapes = rounds.shapes(positions)
        seconds = torch.stack((cost.draft_seconds(shapes), cost.verify_seconds(shapes)))
    return Outcome(
        tree=played.tree.take(keep, width),
        tested=tested.gather(1, order),
        accepted=accepted.gather(1, order),
        num_accepted=num_accepted,
        num_emitted=rounds.num_emitted * is_active,
        depth=rounds.depth,
        draft_seconds=seconds[0] * is_active,
        verify_seconds=seconds[1] * is_active,
    )


def texts_of(replayed: Replayed, trace: Trace) -> Iterator[Rounds]:
    """The rounds of each text, in its order."""
    texts = trace.positions.text_of[replayed.rounds.rows]
    for number in range(len(trace.texts)):
        yield replayed.rounds.take(texts == number)
