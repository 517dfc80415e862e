"""Totals, and how sure a ratio of totals is."""

from collections.abc import Sequence

import numpy as np


def bootstrap_ratio(
    ours: Sequence[tuple[float, float]],
    theirs: Sequence[tuple[float, float]],
    *,
    num_resamples: int = 4000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile interval of a speed-up over prompts.

    Prompts are drawn with replacement, both arms of a prompt together, and the ratio of totals is
    taken anew each time.

    Args:
        ours: tokens and seconds of each prompt.
        theirs: the baseline's, of the same prompts in the same order.
        num_resamples: draws.
        level: coverage.
        seed: of the draws.

    Returns:
        Low and high; None for a single prompt, which says nothing of others.
    """
    num_prompts = len(ours)
    if num_prompts < 2:
        return None
    drawn = np.random.default_rng(seed).integers(num_prompts, size=(num_resamples, num_prompts))
    # Shapes: [num_resamples, prompts, 2] summed over prompts.
    our_tokens, our_seconds = np.asarray(ours, dtype=float)[drawn].sum(1).T
    their_tokens, their_seconds = np.asarray(theirs, dtype=float)[drawn].sum(1).T
    ratios = (our_tokens / our_seconds) / (their_tokens / their_seconds)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons made at once, by Holm's correction, in their order."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = worst
    return adjusted


def acceptance_by_depth(depths: Sequence[int], num_accepted: Sequence[int]) -> list[float]:
    """Entry d - 1: of the rounds that drafted d deep, the share that accepted d tokens or more."""
    deepest = max(depths, default=0)
    shares = []
    for depth in range(1, deepest + 1):
        reached = [n >= depth for d, n in zip(depths, num_accepted, strict=True) if d >= depth]
        shares.append(sum(reached) / len(reached))
    return shares


def conditional_acceptance(
    depths: Sequence[int], num_accepted: Sequence[int]
) -> list[float | None]:
    """Entry d - 1: of the rounds that drafted d deep and accepted d - 1, the share that accepted d.

    None where no round came so far.
    """
    shares: list[float | None] = []
    for depth in range(1, max(depths, default=0) + 1):
        reached = [
            n >= depth
            for d, n in zip(depths, num_accepted, strict=True)
            if d >= depth and n >= depth - 1
        ]
        shares.append(sum(reached) / len(reached) if reached else None)
    return shares
