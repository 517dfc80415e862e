"""Which policy is the fastest, and which differences could be chance.

Policies are compared on the same prompts, pair by pair; what is tested together is corrected for.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adaeagle.bench.records import PromptRecord
from adaeagle.bench.runner import BASELINE
from adaeagle.bench.statistics import bootstrap_ratio, holm

FEWEST_PROMPTS = 6
"""For a verdict: of so many, all slower has a chance of 1 in 64."""
LEVEL = 0.05
NUM_SWAPS = 10_000


def speed_ratio(records: Sequence[PromptRecord], ours: str, theirs: str) -> dict[str, Any]:
    """Tokens a second of one policy over those of another on the same prompts.

    Returns:
        `ratio`, of totals, and `ci95`, a bootstrap over prompts (None where there is but one).
    """
    pairs = [
        [(record.arms[name].num_tokens, record.arms[name].seconds) for record in records]
        for name in (ours, theirs)
    ]
    (our_tokens, our_seconds), (their_tokens, their_seconds) = (
        map(sum, zip(*arm, strict=True)) for arm in pairs
    )
    value = (our_tokens / our_seconds) / (their_tokens / their_seconds)
    return {"ratio": value, "ci95": bootstrap_ratio(*pairs)}


def swap_p_value(records: Sequence[PromptRecord], ours: str, theirs: str) -> float:
    """How often two policies that do not differ would be as far apart, two-sided.

    In each draw the two are exchanged on every prompt with a chance of one half.
    """
    arms = np.array(
        [
            [(record.arms[name].num_tokens, record.arms[name].seconds) for name in (ours, theirs)]
            for record in records
        ]
    )  # [prompts, policies, tokens and seconds]
    if len(records) <= math.log2(NUM_SWAPS):  # every way there is
        ways = np.arange(2 ** len(records))[:, None]
        swapped = (ways >> np.arange(len(records))) & 1
    else:
        swapped = np.random.default_rng(0).integers(2, size=(NUM_SWAPS, len(records)))
        swapped[0] = 0  # the way they are
    rows = np.arange(len(records))
    first, second = (arms[rows, side].sum(1) for side in (swapped, 1 - swapped))
    apart = np.abs(np.log(first[:, 0] / first[:, 1] * second[:, 1] / second[:, 0]))
    return float((apart >= apart[0] - 1e-12).mean())


def by_speed(records: Sequence[PromptRecord]) -> list[PromptRecord]:
    """The same records, the fastest policy first in each."""
    speeds = {name: tokens_per_second(records, name) for name in records[0].arms}
    order = sorted(speeds, key=speeds.__getitem__, reverse=True)
    return [replace(one, arms={name: one.arms[name] for name in order}) for one in records]


def tokens_per_second(records: Sequence[PromptRecord], name: str) -> float:
    """Of one policy over all prompts."""
    arms = [record.arms[name] for record in records]
    return sum(arm.num_tokens for arm in arms) / sum(arm.seconds for arm in arms)


def ranking(records: Sequence[PromptRecord], baseline: str) -> dict[str, Any]:
    """Every policy against `baseline`, and what can be told of the fastest and the slowest.

    Returns:
        `baseline`; `arms`, by policy the `ratio` to it with `ci95` and `p_adjusted` (Holm, over all
        policies); `best`, `indistinguishable` from it, `slower_than_vanilla`; `verdict`, those in
        a sentence. Below `FEWEST_PROMPTS` nothing is tested and the three are None.
    """
    records = by_speed(records)
    names = list(records[0].arms)
    others = [name for name in names if name != baseline]
    p_values = _adjusted(records, others, baseline)
    arms = {
        name: {**speed_ratio(records, name, baseline), "p_adjusted": p_values[name]}
        for name in others
    }
    found = {"baseline": baseline, "arms": arms}
    if len(records) < FEWEST_PROMPTS:
        verdict = f"no verdict: it takes {FEWEST_PROMPTS} prompts or more, got {len(records)}"
        unknown = dict.fromkeys(("best", "indistinguishable", "slower_than_vanilla"))
        return {**found, **unknown, "verdict": verdict}
    best, *others = names
    different = _differing(records, others, best)
    close = [name for name in others if name not in different]
    slower = _differing(records, names[names.index(BASELINE) + 1 :], BASELINE)
    parts = [f"best: {best}"]
    parts += [f"indistinguishable from it: {', '.join(close)}"] if close else []
    parts += [f"slower than not drafting: {', '.join(slower)}"] if slower else []
    return {
        **found,
        "best": best,
        "indistinguishable": close,
        "slower_than_vanilla": slower,
        "verdict": "; ".join(parts),
    }


def _adjusted(
    records: Sequence[PromptRecord], names: Sequence[str], other: str
) -> dict[str, float | None]:
    """P-values of policies against another, tested together; None: there are too few prompts."""
    if len(records) < FEWEST_PROMPTS:
        return dict.fromkeys(names)
    p_values = holm([swap_p_value(records, name, other) for name in names])
    return dict(zip(names, p_values, strict=True))


def _differing(records: Sequence[PromptRecord], names: Sequence[str], other: str) -> list[str]:
    """The policies whose difference to another is hardly chance."""
    p_values = _adjusted(records, names, other)
    return [name for name, p_value in p_values.items() if p_value is not None and p_value < LEVEL]
