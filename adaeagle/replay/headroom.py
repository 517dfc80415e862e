"""The best fixed draft of a family, what its oracles reach, and the share of that a policy gets.

Families are lists of fixed policies; `chain` holds chains of every length, `eagle2` EAGLE-2's trees
over a grid of budgets.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from adaeagle.cost.model import CostModel, RoundShapes
from adaeagle.registry import get_policy
from adaeagle.replay.oracle import Choices, choices, clairvoyant, dp, greedy, headroom_recovered
from adaeagle.replay.replay import walk
from adaeagle.trace.trace import Trace


def chain_family(longest: int = 16) -> list[str]:
    """Chains of every length, plain decoding among them."""
    return ["vanilla", *(f"chain(length={length})" for length in range(1, longest + 1))]


def eagle2_family(
    depths: Sequence[int] = (1, 2, 3, 4, 6, 8),
    widths: Sequence[int] = (3, 10),
    nodes: Sequence[int] = (2, 4, 8, 16, 32, 59),
) -> list[str]:
    """EAGLE-2's trees over a grid of budgets, plain decoding among them."""
    return [
        "vanilla",
        *(
            f"eagle2(depth={depth}, width={width}, nodes={count})"
            for width in widths
            for depth in depths
            for count in nodes
            if depth <= count <= width + (depth - 1) * width * width
        ),
    ]


@dataclass(frozen=True, slots=True)
class Headroom:
    """What can be won over the best fixed draft of a family; speeds in tokens per second.

    Prefill is charged to all alike, time to decide to none.
    """

    family: str
    num_members: int
    baseline: str  # the best fixed member
    baseline_chosen_on: str
    fixed: float
    greedy: float
    dp: float

    def recovered_by(self, tokens_per_second: float) -> float | None:
        """The share of `dp`'s gain that a policy makes."""
        return headroom_recovered(tokens_per_second, self.fixed, self.dp)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "headroom": self.dp / self.fixed - 1}


def headroom(
    family: str, members: Sequence[str], trace: Trace, cost: CostModel, tune: Trace | None = None
) -> Headroom:
    """Solves a family's oracles on a trace.

    Args:
        family: its name.
        members: specs of fixed policies.
        trace: of the prompts that are reported.
        cost: prices rounds.
        tune: of the prompts that the baseline is chosen on; None: on those of `trace`, in
            hindsight, which flatters it.
    """
    policies = [get_policy(spec) for spec in members]
    found = choices(policies, trace, cost)
    chooser = found if tune is None else choices(policies, tune, cost)
    best = int(_fixed_seconds(chooser, tune or trace).argmin())
    tokens = sum(len(text.token_ids) for text in trace.texts)
    prefill = prefill_seconds(trace, cost)

    def speed(seconds: float) -> float:
        return tokens / (seconds + prefill)

    return Headroom(
        family=family,
        num_members=len(members),
        baseline=members[best],
        baseline_chosen_on="the same prompts" if tune is None else "tune",
        fixed=speed(float(_fixed_seconds(found, trace)[best])),
        greedy=speed(float(greedy(found, trace.positions).seconds.sum())),
        dp=speed(float(dp(found, trace.positions).seconds.sum())),
    )


def clairvoyant_speed(trace: Trace, cost: CostModel) -> float:
    """Tokens per second where only accepted tokens of the recorded drafts are ever drafted."""
    tokens = sum(len(text.token_ids) for text in trace.texts)
    seconds = float(clairvoyant(trace, cost).seconds.sum())
    return tokens / (seconds + prefill_seconds(trace, cost))


def prefill_seconds(trace: Trace, cost: CostModel) -> float:
    """Of target and draft model, all texts together.

    The draft model's is what its first forward of a text takes beyond any other first forward,
    which the rounds pay.
    """
    lengths = torch.tensor([len(text.prompt_ids) for text in trace.texts])
    ones = torch.ones(len(lengths), 1, dtype=torch.int64)
    chains = torch.zeros(len(lengths), dtype=torch.bool)
    first = cost.draft_seconds(RoundShapes(lengths, ones, ones[:, 0], chains))
    more = (cost.draft_prefill_seconds(lengths) - first).clamp(min=0)
    return float((cost.prefill_seconds(lengths) + more).sum())


def _fixed_seconds(family: Choices, trace: Trace) -> Tensor:
    """[M] what all texts take under each member alone."""
    positions = trace.positions
    rows = torch.arange(len(positions))
    seconds = []
    for emitted, each in zip(family.num_emitted, family.seconds, strict=True):
        after = torch.where(emitted < positions.num_left, rows + emitted, len(positions))
        seconds.append(each[walk(after, positions)].sum())
    return torch.stack(seconds)
