"""What the parts of a round cost at a place in a text, for rules that weigh them.

Shapes: K longest chain, N nodes of a tree, F nodes of its latest level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adaeagle.cost.model import CostModel, RoundShapes

BUCKET = 64
"""Contexts are priced in steps of so many tokens."""
FEW = 16
"""Nodes of a small tree."""


@dataclass(frozen=True, slots=True)
class PathCosts:
    """Seconds of rounds that draft and verify a single path."""

    seconds: list[float]  # [K + 1] of paths of 0 to K nodes
    least: float  # that any node adds to those before it

    def pays(self, alive: float, ahead: Sequence[float], depth: int, rate: float) -> bool:
        """Whether some longer path is expected to earn its seconds.

        Args:
            alive: the probability that all [depth] drafted nodes are accepted.
            ahead: [M] of each of the next, given that all before it are. Beyond them it goes on as
                at their end.
            depth: nodes that are drafted.
            rate: tokens that a second must bring.
        """
        tokens, chance = 0.0, 0.0
        for length in range(depth + 1, len(self.seconds)):
            chance = ahead[length - depth - 1] if length - depth <= len(ahead) else chance
            alive *= chance
            if alive < rate * self.least:  # nor does any later one bring what it takes
                return False
            tokens += alive
            if tokens > rate * (self.seconds[length] - self.seconds[depth]):
                return True
        return False


@dataclass(frozen=True, slots=True)
class TreeCosts:
    """Seconds of a tree's parts, in rounds of one context."""

    paths: PathCosts
    widths: list[float]  # [N] of a draft forward of 1 to N nodes
    verified: list[float]  # [N] of verifying 1 to N nodes
    node: float  # that each of the first `FEW` nodes adds to a verification, on average

    def num_verified(self, survival: Sequence[float], rate: float) -> int:
        """How many of the likeliest nodes are worth verifying, one at least.

        Args:
            survival: [N] the tokens that nodes bring; below 0 of those that may not be chosen.
            rate: tokens that a second must bring.
        """
        best, count, tokens = -math.inf, 1, 0.0
        for place, each in enumerate(sorted(survival, reverse=True)):
            if each < 0:
                break
            tokens += each
            gain = tokens - rate * self.verified[place]
            if gain > best:
                best, count = gain, place + 1
        return count

    def num_beside(self, tokens: Sequence[float], rate: float) -> int:
        """How many nodes go on beside the one that a draft forward is made for.

        Each must be worth its place in the forward, and its best child in verification.

        Args:
            tokens: [F - 1] that their best children bring, most first.
            rate: tokens that a second must bring.
        """
        best, count, gain = 0.0, 0, 0.0
        for place, each in enumerate(tokens, 1):
            gain += each - rate * (self.widths[place] - self.widths[place - 1] + self.node)
            if gain > best:
                best, count = gain, place
        return count


class RoundCosts:
    """A cost table, evaluated once for each bucket of contexts.

    Args:
        cost: the table.
        longest: K.
    """

    def __init__(self, cost: CostModel, longest: int) -> None:
        self._cost = cost
        self._longest = longest
        self._chains: dict[int, PathCosts] = {}
        self._trees: dict[tuple[int, int], TreeCosts] = {}

    def chain(self, context: int) -> PathCosts:
        """Those of chains of 0 to K tokens."""
        bucket = context // BUCKET
        if bucket not in self._chains:
            self._chains[bucket] = self._paths(bucket, is_tree=False)
        return self._chains[bucket]

    def tree(self, context: int, num_nodes: int) -> TreeCosts:
        """Those of trees of `num_nodes` drafted nodes, or of more."""
        key = context // BUCKET, max(FEW, 1 << num_nodes.bit_length())
        if key not in self._trees:
            self._trees[key] = self._tree(*key)
        return self._trees[key]

    def _paths(self, bucket: int, *, is_tree: bool) -> PathCosts:
        lengths = torch.arange(self._longest + 1)
        widths = (torch.arange(self._longest) < lengths.unsqueeze(1)).long()
        seconds = self._cost.round_seconds(_shapes(bucket, widths, lengths, is_tree))
        least = float(seconds.diff().min())
        return PathCosts(seconds.tolist(), least)

    def _tree(self, bucket: int, num_nodes: int) -> TreeCosts:
        nodes = torch.arange(1, num_nodes + 1)
        # Of the forwards the third: those before it cost differently, and are not in question.
        before = torch.ones(num_nodes, 2, dtype=torch.int64)
        shapes = _shapes(bucket, torch.cat((before, nodes.unsqueeze(1)), dim=1), nodes, True)
        drafted = self._cost.draft_seconds(shapes)
        without = self._cost.draft_seconds(_shapes(bucket, before, nodes, True))
        verified = self._cost.verify_seconds(shapes) + self._cost.other_seconds(shapes)
        return TreeCosts(
            paths=self._paths(bucket, is_tree=True),
            widths=(drafted - without).tolist(),
            verified=verified.tolist(),
            node=float(verified[FEW - 1] - verified[0]) / (FEW - 1),
        )


def _shapes(bucket: int, widths: torch.Tensor, nodes: torch.Tensor, is_tree: bool) -> RoundShapes:
    return RoundShapes(
        contexts=torch.full_like(nodes, bucket * BUCKET + BUCKET // 2),
        widths=widths,
        nodes=nodes,
        is_tree=torch.full_like(nodes, is_tree, dtype=torch.bool),
    )
