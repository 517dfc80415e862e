"""Where two texts part, and how near the target's choice was there."""

from collections.abc import Sequence

import torch

from adaeagle.models.target import Target


def first_difference(left: Sequence[object], right: Sequence[object]) -> int | None:
    """The first position at which two lists differ, one's end included; None: nowhere."""
    for position, (ours, theirs) in enumerate(zip(left, right, strict=False)):
        if ours != theirs:
            return position
    return None if len(left) == len(right) else min(len(left), len(right))


@torch.inference_mode()
def top2_gap(target: Target, token_ids: Sequence[int]) -> float:
    """The difference of the target's two best logits for what follows `token_ids`.

    Near 0 two correct forwards may round to different tokens; far from 0 a difference is a bug.
    """
    _, logits = target.begin(1, capacity=len(token_ids)).prefill(token_ids)
    best, second = logits[0].float().topk(2).values.tolist()
    return float(best - second)
