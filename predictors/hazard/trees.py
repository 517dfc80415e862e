"""A trained `HazardPredictor` asked about the nodes of a tree.

It was trained on chains of best tokens. On a tree it judges a parent's best child as the last token
of a chain that is the child's path, which is the chance it was trained for. What that leaves, the
other children share in proportion to the draft's probabilities, as if one of them had to be right:
a draft model may be far less sure of itself than it is right, and its own probabilities would then
promise too little of whole paths. What comes after another child is taken to be as sure as after
the best one.

As on chains, what are a few numbers a node is plain Python, and the network is called once.
Shapes: P rounds side by side, A of them asked about, N nodes of a tree, M tokens looked ahead,
B nodes that the network is asked about.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from adaeagle.tree import DraftTree
from predictors.hazard.network import ECHOES, LEAST_LOG_PROB, LEAST_PATH_LOG_PROB
from predictors.hazard.steps import HazardSteps, Known, chance
from predictors.hazard.suffix_match import MOST_ECHO, Repeat, echo


class Family(NamedTuple):
    """The children of one node."""

    depth: int
    best: int  # the likeliest, which the others follow
    end: int  # the node after the last
    against: list[float]  # [M] log-odds against each of the next, given that all before it are


@dataclass(slots=True)
class _Round:
    """What is known of a round's nodes, the root first; of padding zeros."""

    repeat: Repeat
    survival: list[float]  # the probability that a node is accepted with all above it
    goes_along: list[bool]  # its path says what followed where the text's end was said before
    latest: list[Family] = field(default_factory=list)  # those of the deepest level


class HazardNodes:
    """The nodes of growing trees, each judged once.

    Args:
        steps: the network.
        known: of the rounds, before they draft.
    """

    def __init__(self, steps: HazardSteps, known: Known) -> None:
        self._steps = steps
        self._contexts = known.contexts
        self._rounds = [_Round(each, [1.0], [each.length > 0]) for each in known.repeats]

    def survival(self, row: int) -> list[float]:
        """The probability that each judged node of a round is accepted with all above it, [N]."""
        return self._rounds[row].survival[1:]

    def latest(self, row: int) -> list[Family]:
        """The families of the deepest level that was judged of a round, but for padding."""
        return self._rounds[row].latest

    def judge(self, tree: DraftTree, asked: Sequence[int]) -> None:
        """Judges what is new of some rounds [A].

        Args:
            tree: that of the last call, or the same grown; at least one node.
            asked: which rounds.

        Raises:
            ValueError: features were NaN or infinite.
        """
        drafts = _Drafts(tree)
        rows: list[int] = []
        scalars: list[list[float]] = []
        token_ids: list[int] = []
        for row in asked:
            for best, own in _followed(drafts, row, self._rounds[row]):
                rows.append(row)
                scalars.append(own)
                token_ids.append(drafts.token_ids[row][best])
        answers: list[list[float]] = []
        if rows:  # else there is nothing but padding
            contexts = self._contexts if len(self._contexts) == 1 else self._contexts[rows]
            answers = self._steps.odds(contexts, scalars, token_ids)
        remaining = iter(answers)
        for row in asked:
            _survive(drafts, row, self._rounds[row], remaining)


class _Drafts:
    """A tree's columns as lists, [P][N], and its families."""

    def __init__(self, tree: DraftTree) -> None:
        self.token_ids = tree.token_ids.tolist()
        self.parents = tree.parents.tolist()
        self.log_probs = tree.log_probs.tolist()
        self.paths = tree.path_log_probs.tolist()  # minus infinity of padding
        self.levels = tree.levels

    def said(self, row: int, node: int) -> str:
        """The path to a node, a character a token."""
        token_ids, parents = self.token_ids[row], self.parents[row]
        text = ""
        while node >= 0:
            text = chr(token_ids[node]) + text
            node = parents[node]
        return text

    def families(self, row: int, first: int) -> Iterator[tuple[int, int, int]]:
        """Depth, best child and end of those of a round from node `first` on, but for padding."""
        paths, start = self.paths[row], 0
        for depth, (num_parents, num_ranks) in enumerate(self.levels, 1):
            end = start + num_parents * num_ranks
            if start >= first:
                for best in range(start, end, num_ranks):
                    if paths[best] > -math.inf:
                        yield depth, best, best + num_ranks
            start = end


def _followed(drafts: _Drafts, row: int, known: _Round) -> Iterator[tuple[int, list[float]]]:
    """The new best children of a round and their `chain_scalars`."""
    token_ids, parents = drafts.token_ids[row], drafts.parents[row]
    log_probs, paths = drafts.log_probs[row], drafts.paths[row]
    goes_along, matched = known.goes_along, math.log1p(known.repeat.length)
    first = len(goes_along) - 1
    goes_along += [False] * (len(token_ids) - first)
    for depth, best, end in drafts.families(row, first):
        if goes_along[parents[best] + 1]:
            expected = _expected(known.repeat, depth)
            for node in range(best, end):
                goes_along[node + 1] = token_ids[node] == expected
        own = max(log_probs[best], LEAST_LOG_PROB)
        path = max(paths[best], LEAST_PATH_LOG_PROB)
        chances, goes = (math.exp(own), math.exp(path)), goes_along[best + 1]
        told = own, path, *chances, goes, goes * matched, depth, math.sqrt(depth)
        text = known.repeat.text + drafts.said(row, best)
        yield best, [*told, *ECHOES[echo(text, MOST_ECHO)]]


def _survive(drafts: _Drafts, row: int, known: _Round, answers: Iterator[list[float]]) -> None:
    """Takes in the log-odds against new best children and against what follows them."""
    parents, log_probs, paths = drafts.parents[row], drafts.log_probs[row], drafts.paths[row]
    survival, latest = known.survival, known.latest
    first = len(survival) - 1
    survival += [0.0] * (len(parents) - first)
    for depth, best, end in drafts.families(row, first):
        odds = next(answers)
        above = survival[parents[best] + 1]
        survival[best + 1] = above * chance(odds[0])
        weights = [
            math.exp(log_probs[each]) * (paths[each] > -math.inf) for each in range(best + 1, end)
        ]
        share = (above - survival[best + 1]) / (sum(weights) or 1.0)
        survival[best + 2 : end + 1] = [weight * share for weight in weights]
        if latest and latest[0].depth < depth:
            latest.clear()
        latest.append(Family(depth, best, end, odds[1:]))


def _expected(repeat: Repeat, depth: int) -> int:
    return repeat.following[depth - 1] if depth <= len(repeat.following) else -1
