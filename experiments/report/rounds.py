"""The rounds that a replay ran on some texts, replayed for their trees.

Shapes: N drafted nodes, Q positions of all texts.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from adaeagle.cost.model import CostModel
from adaeagle.policy import Policy
from adaeagle.replay.oracle import choices, dp
from adaeagle.replay.replay import MAX_ROUNDS
from adaeagle.replay.rounds import Played, Rounds, outcome_of, play
from adaeagle.trace.positions import Positions
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from adaeagle.tree import ROOT
from experiments.views.drafts import SIGNS

LEFT_OUT = "/"
"""The sign of a node that the text goes through, drafted and not sent to verification."""

COUNTS = ("depth", "num_drafted", "num_verified", "num_accepted", "num_emitted")


class ShownRound(NamedTuple):
    """One round and its tree, as the page reads it: what was verified and what should have been."""

    position: int  # within its text, see `RecordedText`
    depth: int  # draft forwards
    num_drafted: int
    num_verified: int
    num_accepted: int
    num_emitted: int
    milliseconds: list[float] | None  # draft, verify, the rest; None without a cost model
    token_ids: list[int]  # [N], a parent before its children
    parents: list[int]  # [N], -1 below the root
    probabilities: list[int]  # [N], the draft model's, of a token after its parent, in thousandths
    fates: str  # [N] signs: those of `draft_view`, or LEFT_OUT


class Foresight(NamedTuple):
    """What `dp` does at one position, as the page reads it."""

    member: int  # of the family
    depth: int
    num_drafted: int
    num_verified: int
    num_accepted: int
    num_emitted: int
    milliseconds: float


def rounds_of(
    policy: Policy, trace: Trace, cost: CostModel | None
) -> Iterator[tuple[RecordedText, list[ShownRound]]]:
    """Every text with the rounds that a policy runs on it, one at a time as live."""
    positions = trace.positions
    for text, (here, end) in zip(trace.texts, pairwise(positions.starts.tolist()), strict=True):
        policy.reset()
        found: list[Played] = []
        while here < end:
            played = play(policy, trace, torch.tensor([here]), len(found))
            if policy.learns:
                policy.observe(outcome_of(played, torch.tensor([True]), positions, cost))
            found.append(played)
            here += int(played.rounds.num_emitted)
        spent = _milliseconds(found, positions, cost)
        yield text, [_shown(*one, positions) for one in zip(found, spent, strict=True)]


def _milliseconds(
    found: Sequence[Played], positions: Positions, cost: CostModel | None
) -> Sequence[list[float] | None]:
    """What rounds take, without the prompt that a text's first draft forward reads."""
    if cost is None or not found:
        return [None] * len(found)
    shapes = Rounds.join([played.rounds for played in found]).shapes(positions)
    parts = cost.draft_seconds, cost.verify_seconds, cost.other_seconds
    columns = [part(shapes).tolist() for part in parts]
    return [[_rounded(part) for part in row] for row in zip(*columns, strict=True)]


def _rounded(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _shown(played: Played, milliseconds: list[float] | None, positions: Positions) -> ShownRound:
    rounds = played.rounds
    row = int(rounds.rows)
    path = [node for node in played.path[0].tolist() if node != ROOT]
    kept = played.drafted.keep[0].clone()
    kept[path] = True
    tree = played.drafted.tree.take(kept.unsqueeze(0), int(kept.sum()))
    nodes = kept.nonzero().flatten().tolist()  # the rows that `take` keeps, in order
    return ShownRound(
        position=int(positions.within[row]),
        **{name: int(getattr(rounds, name)) for name in COUNTS},
        milliseconds=milliseconds,
        token_ids=tree.token_ids[0].tolist(),
        parents=tree.parents[0].tolist(),
        probabilities=[round(1000 * share) for share in tree.log_probs[0].exp().tolist()],
        fates=_fates(played, nodes, int(positions.num_left[row])),
    )


def _fates(played: Played, nodes: Sequence[int], num_left: int) -> str:
    """What became of some nodes of one round.

    Args:
        played: the round.
        nodes: rows of its tree.
        num_left: tokens that the text still has: nothing was tested below its last.
    """
    tree = played.drafted.tree
    parents, depths = tree.parents[0].tolist(), tree.depths[0].tolist()
    keep = played.drafted.keep[0].tolist()
    accepted = set(played.path[0, : int(played.rounds.num_accepted)].tolist())

    def sign(node: int) -> str:
        if node in accepted:
            return SIGNS["accepted"]
        if not keep[node]:
            return LEFT_OUT
        is_tested = parents[node] == ROOT or parents[node] in accepted
        return SIGNS["rejected" if is_tested and depths[node] <= num_left else "unreached"]

    return "".join(map(sign, nodes))


def foresight(members: Sequence[Policy], trace: Trace, cost: CostModel) -> list[Foresight]:
    """What `dp` does within a family at every position, [Q]."""
    found = choices(members, trace, cost)
    chosen = dp(found, trace.positions).members
    whole: dict[int, Foresight] = {}
    for member in torch.unique(chosen).tolist():
        for rows in torch.split((chosen == member).nonzero().flatten(), MAX_ROUNDS):
            rounds = play(members[member], trace, rows, -1).rounds
            counts = zip(*(getattr(rounds, name).tolist() for name in COUNTS), strict=True)
            seconds = found.seconds[member, rows].tolist()
            for row, own, spent in zip(rows.tolist(), counts, seconds, strict=True):
                whole[row] = Foresight._make((member, *own, _rounded(spent)))
    return [whole[row] for row in range(len(trace.positions))]
