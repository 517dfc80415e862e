"""What a policy comes to on the texts of a sweep, some prompts at a time.

Shapes: T texts, R rounds.
"""

import itertools
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from adaeagle.bench.records import ArmRecord
from adaeagle.bench.replayed import TIMED_ROUNDS, arm_records
from adaeagle.cost.model import CostModel
from adaeagle.policy import Policy
from adaeagle.replay.replay import replay, time_hooks
from adaeagle.trace.trace import Trace

BLOCK = 8
"""Prompts replayed together: enough to tell policies apart, few enough to stop early."""


@dataclass(frozen=True, slots=True)
class Block:
    """Prompts that are replayed together."""

    texts: Tensor  # [T] int64, ascending
    prompt_ids: list[str]


@dataclass(frozen=True, slots=True)
class Score:
    """A policy on prompts, all of their turns together."""

    num_tokens: int
    num_rounds: int
    num_verified: int
    num_drafts: int  # draft forwards
    num_missing: int  # nodes that were not recorded and had to be drafted
    seconds: dict[str, float]  # of each prompt, prefill and decisions included

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.total_seconds

    @property
    def verified_per_token(self) -> float:
        """Drafted nodes sent to verification for each token of the texts."""
        return self.num_verified / self.num_tokens

    def __add__(self, other: "Score") -> "Score":
        return Score(
            num_tokens=self.num_tokens + other.num_tokens,
            num_rounds=self.num_rounds + other.num_rounds,
            num_verified=self.num_verified + other.num_verified,
            num_drafts=self.num_drafts + other.num_drafts,
            num_missing=self.num_missing + other.num_missing,
            seconds=self.seconds | other.seconds,
        )


class Scorer:
    """Replays policies on a trace.

    Args:
        trace: of the texts to tune on.
        cost: prices rounds.
    """

    def __init__(self, trace: Trace, cost: CostModel) -> None:
        self.trace = trace
        self.cost = cost
        self.num_tokens = sum(len(text.token_ids) for text in trace.texts)
        self.prompt_ids = list(dict.fromkeys(text.prompt_id for text in trace.texts))
        self._all = Block(torch.arange(len(trace.texts)), self.prompt_ids)
        self.blocks = self._cut()

    def _cut(self) -> list[Block]:
        """Blocks of about the same work: long and short prompts in each, every prompt in one."""
        texts: dict[str, list[int]] = {}
        lengths: dict[str, int] = {}
        for number, text in enumerate(self.trace.texts):
            texts.setdefault(text.prompt_id, []).append(number)
            lengths[text.prompt_id] = lengths.get(text.prompt_id, 0) + text.num_positions
        ordered = sorted(lengths, key=lambda prompt_id: -lengths[prompt_id])
        # A block must have a position to draft at.
        num_long = sum(length > 0 for length in lengths.values())
        count = max(1, min(num_long, len(ordered) // BLOCK))
        cut = []
        for first in range(count):
            ids = ordered[first::count]
            rows = sorted(itertools.chain.from_iterable(texts[each] for each in ids))
            cut.append(Block(torch.tensor(rows), ids))
        return cut

    def score(self, policy: Policy, decision: float) -> Iterator[Score]:
        """Replays one block after another; a policy that learns, all prompts at once.

        Args:
            policy: in the state it begins in.
            decision: seconds it takes to decide, for each time it is asked whether to draft.

        Raises:
            NotRecordedError: it asks for what the trace neither holds nor can draft.
        """
        for block in [self._all] if policy.learns else self.blocks:
            played = replay(policy, self.trace, self.cost, block.texts)
            num_drafts, num_rounds = int(played.rounds.depth.sum()), len(played.rounds.rows)
            mean = decision * (1 + num_drafts / max(1, num_rounds))
            records = arm_records(played, self.trace, self.cost, mean, block.prompt_ids)
            yield Score(
                num_tokens=_total(records, "num_tokens"),
                num_rounds=num_rounds,
                num_verified=int(played.rounds.num_verified.sum()),
                num_drafts=num_drafts,
                num_missing=played.num_missing,
                seconds={prompt_id: record.seconds for prompt_id, record in records.items()},
            )

    def whole_score(self, policy: Policy, decision: float) -> Score:
        """On all prompts."""
        first, *others = self.score(policy, decision)
        return sum(others, first)

    def decision_seconds(self, policy: Policy) -> float:
        """What a policy takes to decide, for each time it is asked, measured.

        It is asked once a round and once for each draft forward. Measured on rounds run one at a
        time; the mean of the faster half of them.
        """
        seconds = time_hooks(deepcopy(policy), self.trace, self.cost, TIMED_ROUNDS)
        depth = replay(deepcopy(policy), self.trace, self.cost).rounds.depth[: len(seconds)]
        each = (seconds / (1 + depth)).sort().values
        return float(each[: max(1, len(each) // 2)].mean())


def _total(records: dict[str, ArmRecord], name: str) -> int:
    return sum(getattr(record, name) for record in records.values())
