"""What perfect foresight would make of a trace, and what share of that a policy recovers.

An oracle knows the text. Within a stated family of fixed drafts (chains of every length, EAGLE-2
trees of many budgets) it picks one for each round:

    greedy      the draft that is accepted furthest, the cheapest of those
    dp          whatever makes the whole text cheapest, by dynamic programming over its positions;
                over-drafting is allowed, so no policy that stays in the family can beat it
    clairvoyant no family: only the accepted path is drafted and verified, any part of it, of all
                drafts on record. A bound that depends on what was recorded.

Shapes: Q positions of all texts, M members of a family.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaeagle.cost.model import CostModel, RoundShapes
from adaeagle.policy import Policy
from adaeagle.replay.replay import replay_family, walk
from adaeagle.trace.positions import Positions
from adaeagle.trace.trace import Trace


@dataclass(frozen=True, slots=True)
class Choices:
    """Every member of a family at every position."""

    num_emitted: Tensor  # [M, Q] int64
    num_accepted: Tensor  # [M, Q] int64
    seconds: Tensor  # [M, Q] float64, of the round


@dataclass(frozen=True, slots=True)
class Plan:
    """An oracle's rounds."""

    members: Tensor  # [Q] int64, which member a round at each position takes
    visited: Tensor  # [R] int64, the positions at which its rounds begin, in order
    seconds: Tensor  # [R] float64, of each of those rounds
    num_emitted: Tensor  # [R] int64


def choices(family: Sequence[Policy], trace: Trace, cost: CostModel) -> Choices:
    """Plays every member of a family at every position; their own time to decide is not charged.

    Raises:
        ValueError: a member learns, so its rounds are not alike, or there is none.
    """
    if not family:
        raise ValueError("a family must have at least one member, got none")
    for policy in family:
        if policy.learns:
            raise ValueError(f"members of a family must not learn, got {policy!r}")
    played = replay_family(family, trace)
    return Choices(
        torch.stack([rounds.num_emitted for rounds in played]),
        torch.stack([rounds.num_accepted for rounds in played]),
        torch.stack([cost.round_seconds(rounds.shapes(trace.positions)) for rounds in played]),
    )


def greedy(family: Choices, positions: Positions) -> Plan:
    """Takes what is accepted furthest, and of that the cheapest: no draft is wasted, none short."""
    furthest = family.num_accepted == family.num_accepted.max(dim=0).values
    members = family.seconds.masked_fill(~furthest, torch.inf).argmin(dim=0)
    return _walk(members, family, positions)


def dp(family: Choices, positions: Positions) -> Plan:
    """Takes what makes the rest of the text cheapest."""
    num_positions = len(positions)
    # Positions in steps from the end of their text, so that all texts are solved side by side.
    left = positions.num_left
    best = torch.zeros(num_positions + 1, dtype=torch.float64)  # the last entry: after the end
    members = torch.zeros(num_positions, dtype=torch.int64)
    order = left.argsort(stable=True)
    for rows in torch.split(order, torch.bincount(left)[1:].tolist()):
        emitted = family.num_emitted[:, rows]
        after = torch.where(emitted < left[rows], rows + emitted, num_positions)
        total = family.seconds[:, rows] + best[after]
        best[rows], members[rows] = total.min(dim=0)
    return _walk(members, family, positions)


def clairvoyant(trace: Trace, cost: CostModel) -> Plan:
    """Drafts and verifies some part of the accepted path of what was recorded, and nothing else."""
    lengths = reach(trace)
    deepest = int(lengths.max())
    drafted = [torch.minimum(lengths, torch.tensor(k)) for k in range(deepest + 1)]
    contexts = trace.positions.num_tokens - 1
    is_tree = torch.zeros_like(contexts, dtype=torch.bool)
    seconds = []
    for length in drafted:
        widths = (torch.arange(max(1, deepest)) < length.unsqueeze(1)).long()
        shapes = RoundShapes(contexts, widths, length, is_tree, length + 1)
        seconds.append(cost.round_seconds(shapes))
    accepted = torch.stack(drafted)
    emitted = torch.minimum(accepted + 1, trace.positions.num_left)
    return dp(Choices(emitted, accepted, torch.stack(seconds)), trace.positions)


def reach(trace: Trace) -> Tensor:
    """How many tokens of the text any recorded draft has in a row, at each position: [Q] int64."""
    envelope, positions = trace.envelope, trace.positions
    rows = torch.arange(len(positions))
    node = envelope.roots.clone()
    found = torch.zeros_like(node)
    for depth in range(1, int(positions.remaining.max()) + 1):
        known = node.clamp(min=0)
        text_ids = positions.expected(rows, depth).unsqueeze(1)
        match = (envelope.token_ids[known] == text_ids) & (node >= 0).unsqueeze(1) & (text_ids >= 0)
        # A round never drafts as deep as the last token it may emit.
        match &= (positions.remaining > depth).unsqueeze(1)
        is_found, rank = match.max(dim=1)
        if not is_found.any():
            break
        found += is_found
        children = envelope.children[known].gather(1, rank.unsqueeze(1)).squeeze(1)
        node = children.masked_fill(~is_found, -1)
    return found


def _walk(members: Tensor, family: Choices, positions: Positions) -> Plan:
    """The rounds that are run when every position's round is known."""
    rows = torch.arange(len(positions))
    emitted, seconds = family.num_emitted[members, rows], family.seconds[members, rows]
    after = torch.where(emitted < positions.num_left, rows + emitted, len(positions))
    visited = walk(after, positions)
    return Plan(members, visited, seconds[visited], emitted[visited])


def headroom_recovered(policy: float, fixed: float, oracle: float) -> float | None:
    """The share of an oracle's gain over the best fixed draft that a policy makes.

    Args:
        policy: its tokens per second.
        fixed: those of the best fixed draft of its family, tuned.
        oracle: those of the family's `dp`.

    Returns:
        None where the oracle gains nothing.
    """
    return (policy - fixed) / (oracle - fixed) if oracle > fixed else None
