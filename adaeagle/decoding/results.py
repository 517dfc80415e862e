"""What a round of texts side by side came to: for the policy that learns, and for the records."""

from collections.abc import Sequence as Many

import torch
from torch import Tensor

from adaeagle.decoding.acceptance import Verdict
from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.round import Drafted
from adaeagle.decoding.sequence import Sequence
from adaeagle.policy import Outcome
from adaeagle.records import Piece, Round
from adaeagle.tree import DraftTree


def outcome_of(
    sequences: Many[Sequence],
    drafted: Drafted,
    tree: DraftTree,
    verdicts: Many[Verdict],
    emitted: Many[list[int]],
    left: Tensor,
    clock: RoundClock,
) -> Outcome:
    """What verification found.

    Args:
        sequences: P texts, after the round.
        drafted: what was drafted.
        tree: N verified nodes.
        verdicts: of each text.
        emitted: tokens of each text.
        left: [P] int64, tokens each text might have emitted; 0 of one that had ended.
        clock: of the round.
    """
    accepted, tested = torch.zeros_like(tree.valid), torch.zeros_like(tree.valid)
    for row, verdict in enumerate(verdicts):
        accepted[row, verdict.rows] = True
        tested[row, verdict.tested or []] = True
    has_ended = torch.tensor([each.is_done for each in sequences])
    counts = torch.tensor([len(tokens) for tokens in emitted])
    seconds = clock.peek()
    ones = torch.ones(len(sequences), dtype=torch.float64)
    return Outcome.of(
        tree,
        accepted,
        torch.where(has_ended, counts, left),
        depth=drafted.tree.row_depths,
        draft_seconds=ones * seconds["draft"],
        verify_seconds=ones * seconds["verify"],
        tested=None if verdicts[0].tested is None else tested,
    )


def pieces_of(
    drafted: Drafted,
    tree: DraftTree,
    verdicts: Many[Verdict],
    emitted: Many[list[int]],
    num_forwards: int,
    clock: RoundClock,
) -> list[Piece]:
    """What each text emits, with its record; seconds are those of the texts' common round.

    Args:
        drafted: what was drafted.
        tree: N verified nodes.
        verdicts: of each text.
        emitted: tokens of each text.
        num_forwards: of the draft network.
        clock: of the round.
    """
    whole, num_texts = drafted.tree, len(verdicts)
    num_drafted, num_verified = (
        [len(each)] * num_texts if each.is_dense else each.valid.sum(1).tolist()
        for each in (whole, tree)
    )
    depths: list[int] = whole.row_depths.tolist()
    seconds, pieces = clock.peek(), []
    forwards = tuple(spent for part, spent in clock.spans() if part == "draft")
    for row, (verdict, tokens) in enumerate(zip(verdicts, emitted, strict=True)):
        record = Round(
            depth=depths[row],
            draft_forwards=num_forwards,
            num_drafted=num_drafted[row],
            num_verified=num_verified[row],
            num_accepted=min(len(verdict.rows), len(tokens)),
            num_emitted=len(tokens),
            draft_seconds=seconds["draft"],
            verify_seconds=seconds["verify"],
            policy_seconds=seconds["policy"],
            other_seconds=seconds["other"],
            draft_forward_seconds=forwards,
        )
        pieces.append(Piece(tokens, record.seconds, record))
    return pieces
