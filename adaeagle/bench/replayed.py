"""From replayed rounds to the records that live runs leave behind, with seconds of a cost model.

Shapes: T texts, R rounds.
"""

import math
from collections.abc import Collection
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from adaeagle.bench.records import ArmRecord
from adaeagle.cost.model import CostModel
from adaeagle.policy import Policy
from adaeagle.replay.replay import Replayed, time_hooks
from adaeagle.trace.trace import Trace

TIMED_ROUNDS = 64


def policy_seconds(policy: Policy, trace: Trace, cost: CostModel) -> float:
    """What a policy takes to decide a round, measured: rounds of one text at a time, as live.

    The mean, so that deep rounds count, but no round for more than thrice the median: beyond that
    it is the machine's noise.
    """
    seconds = time_hooks(deepcopy(policy), trace, cost, TIMED_ROUNDS)
    return float(seconds.clamp(max=3 * float(seconds.median())).mean())


def arm_records(
    replayed: Replayed,
    trace: Trace,
    cost: CostModel,
    policy_seconds: float,
    prompt_ids: Collection[str] | None = None,
) -> dict[str, ArmRecord]:
    """One record a prompt, by its id, all turns together; prefill included.

    Args:
        replayed: a policy on `trace`.
        trace: what was replayed.
        cost: of the machine that is asked about.
        policy_seconds: what a round's decisions take.
        prompt_ids: which prompts were replayed; None: all.
    """
    rounds = replayed.rounds
    shapes = rounds.shapes(trace.positions)
    draft = cost.draft_seconds(shapes) + _prompt_drafts(replayed, trace, cost)
    parts = {"draft": draft, "verify": cost.verify_seconds(shapes)}
    parts["other"] = cost.other_seconds(shapes)
    prefill = cost.prefill_seconds(_prompt_lengths(trace)).tolist()
    counted = ("depth", "num_drafted", "num_verified", "num_accepted", "num_emitted")
    # Lists from here on: a prompt has a few rounds, and rounds are in order, text by text.
    timed = {name: values.tolist() for name, values in parts.items()}
    counts = {name: getattr(rounds, name).tolist() for name in counted}
    texts = trace.positions.text_of[rounds.rows]
    ends = torch.bincount(texts, minlength=len(trace.texts)).cumsum(0).tolist()
    prompts: dict[str, list[int]] = {}
    for number, text in enumerate(trace.texts):
        if prompt_ids is None or text.prompt_id in prompt_ids:
            prompts.setdefault(text.prompt_id, []).append(number)
    found = {}
    for prompt_id, numbers in prompts.items():
        own = [slice(ends[number - 1] if number else 0, ends[number]) for number in numbers]
        seconds = {
            name: math.fsum(each for some in own for each in values[some])
            for name, values in timed.items()
        }
        seconds["policy"] = policy_seconds * sum(some.stop - some.start for some in own)
        seconds["prefill"] = math.fsum(prefill[number] for number in numbers)
        columns: dict[str, Any] = {
            **{f"{name}_seconds": value for name, value in seconds.items()},
            **{name: [each for some in own for each in counts[name][some]] for name in counted},
        }
        found[prompt_id] = ArmRecord(
            num_tokens=sum(len(trace.texts[number].token_ids) for number in numbers),
            seconds=sum(seconds.values()),
            **columns,
        )
    return found


def _prompt_drafts(replayed: Replayed, trace: Trace, cost: CostModel) -> Tensor:
    """[R] what reading the prompt adds to each text's first draft forward."""
    rounds, positions = replayed.rounds, trace.positions
    extra = torch.zeros(len(rounds.rows), dtype=torch.float64)
    drafts = (rounds.widths > 0).any(1).nonzero().flatten()
    texts = positions.text_of[rounds.rows[drafts]]
    is_first = torch.ones_like(texts, dtype=torch.bool)
    is_first[1:] = texts[1:] != texts[:-1]  # rounds are in order, text by text
    first = drafts[is_first]
    whole = cost.draft_prefill_seconds(_prompt_lengths(trace)[texts[is_first]])
    alone = rounds.take(first).shapes(positions)
    root = replace(alone, widths=alone.widths[:, :1])
    extra[first] = (whole - cost.draft_seconds(root)).clamp(min=0)
    return extra


def _prompt_lengths(trace: Trace) -> Tensor:
    return torch.tensor([len(text.prompt_ids) for text in trace.texts])
