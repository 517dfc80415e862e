"""What rules over texts side by side have in common: what is accepted, what it costs, what pays.

Shapes: P texts side by side, K longest draft of a text, N nodes of all texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from adaeagle.cost.batches import side_by_side
from adaeagle.cost.model import CostModel, RoundShapes
from adaeagle.policy import Outcome
from policies.support.round_costs import BUCKET

PRIOR, PRIOR_WEIGHT = 0.7, 4.0
"""What is expected of a draft nobody has seen, and how many tested tokens it counts as."""


class AcceptanceRate:
    """The share of tested tokens that are accepted, of all texts together.

    It returns to where it began while nothing is drafted, so that drafting is tried once more.

    Args:
        memory: weight of the past in each round, in [0, 1).
    """

    def __init__(self, memory: float) -> None:
        if not 0 <= memory < 1:
            raise ValueError(f"memory must be in [0, 1), got {memory}")
        self._memory = memory
        self.reset()

    def reset(self) -> None:
        self._tested = self._accepted = 0.0

    def observe(self, outcome: Outcome) -> None:
        self._tested = self._memory * self._tested + float(outcome.tested.sum())
        self._accepted = self._memory * self._accepted + float(outcome.accepted.sum())

    @property
    def value(self) -> float:
        return (PRIOR * PRIOR_WEIGHT + self._accepted) / (PRIOR_WEIGHT + self._tested)


@dataclass(frozen=True, slots=True)
class BatchSeconds:
    """Seconds of rounds of P texts around one context."""

    draft: list[float]  # [K + 1] of 0 to K levels
    rest: list[float]  # [N + 1] of verifying 0 to N nodes in all, and of what lies around it


class BatchCosts:
    """A cost table, evaluated once for each number of texts and bucket of contexts.

    Args:
        cost: the table, a file of it or a bundled one's name.
        longest: K.
    """

    def __init__(self, cost: str | Path | CostModel, longest: int) -> None:
        self._cost = cost if isinstance(cost, CostModel) else CostModel.load(cost)
        self._longest = longest
        self._known: dict[tuple[int, int, int], BatchSeconds] = {}

    def at(self, contexts: Sequence[int], num_nodes: int = 0) -> BatchSeconds:
        """Of texts with so many tokens each, up to `num_nodes` in all or the longest drafts."""
        num_texts = len(contexts)
        most = 1 << max(num_nodes, num_texts * self._longest).bit_length()
        key = num_texts, sum(contexts) // num_texts // BUCKET, most
        if key not in self._known:
            self._known[key] = self._evaluate(*key)
        return self._known[key]

    def _evaluate(self, num_texts: int, bucket: int, most: int) -> BatchSeconds:
        cost = side_by_side(self._cost, num_texts)
        levels, nodes = torch.arange(self._longest + 1), torch.arange(most + 1)
        is_run = torch.arange(self._longest) < levels.unsqueeze(1)
        drafted = cost.draft_seconds(_shapes(bucket, num_texts * is_run.long(), 0 * levels))
        shapes = _shapes(bucket, torch.zeros(len(nodes), 0, dtype=torch.int64), nodes)
        rest = cost.verify_seconds(shapes) + cost.other_seconds(shapes)
        return BatchSeconds(drafted.tolist(), rest.tolist())


def _shapes(bucket: int, widths: torch.Tensor, nodes: torch.Tensor) -> RoundShapes:
    contexts = torch.full_like(nodes, bucket * BUCKET + BUCKET // 2)
    return RoundShapes(contexts, widths, nodes, torch.zeros_like(nodes, dtype=torch.bool))


def best_length(rate: float, limits: Sequence[int], seconds: BatchSeconds) -> tuple[int, float]:
    """The one length for all texts that makes the most tokens a second, 0 among them, and those.

    Args:
        rate: chance that a tested token is accepted.
        limits: [P] most tokens that each may draft.
        seconds: of the P texts' rounds.
    """
    best, tokens = (0, len(limits) / seconds.rest[0]), float(len(limits))
    for length in range(1, len(seconds.draft)):
        num_longer = sum(limit >= length for limit in limits)
        if num_longer == 0:
            break
        tokens += num_longer * rate**length
        num_nodes = sum(min(limit, length) for limit in limits)
        per_second = tokens / (seconds.draft[length] + seconds.rest[num_nodes])
        if per_second > best[1]:
            best = length, per_second
    return best
