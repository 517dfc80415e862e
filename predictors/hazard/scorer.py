"""A trained `HazardPredictor` on the nodes of growing drafts; a chain is a tree of width 1.

The network was trained on chains of best tokens. On a tree it scores a parent's best child as the
last token of a chain that is the child's path, which is the probability it was trained for. The
other children share what that leaves in proportion to the draft's probabilities, as if one of them
had to be right: a draft model may be far less sure of itself than it is right, and its own
probabilities would then promise too little of whole paths. What comes after another child is taken
to be as sure as what comes after the best one.

Shapes: P rounds side by side, N nodes of a tree, M tokens looked ahead, B nodes that are scored.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from adaeagle.policy import Context
from adaeagle.tree import DraftTree
from predictors.base import Batch, Predictor
from predictors.data.suffix_match import MOST_ECHO, WINDOW, Repeat, echo, repeats
from predictors.layers.live import live_batch

LEAST_LOG_PROB, LEAST_PATH_LOG_PROB = -12.0, -20.0
ECHOES = [(n, n >= 2, n >= 3, n >= 5) for n in range(MOST_ECHO + 1)]
"""Scalars of a token with which so many at the end of text and draft have occurred before."""


class HazardNetwork(Predictor):
    """What gives the log-odds of drafted tokens, see `predictors.hazard.network`."""

    k_max: int

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor: ...

    @abstractmethod
    def log_odds(self, encoded: Tensor, scalars: Tensor, token_ids: Tensor | None) -> Tensor: ...


class Family(NamedTuple):
    """The children of one node."""

    depth: int
    best: int  # the likeliest, which the others follow
    end: int  # the node after the last
    ahead: list[float]  # [M] acceptance of each of the next tokens, given that all before it are


@dataclass(slots=True)
class _Round:
    """What is known of a round's nodes, the root first; zeros for padding."""

    repeat: Repeat
    survival: list[float]  # the probability that a node is accepted with all above it
    follows_repeat: list[bool]  # its path is what followed where the text's end occurred before
    latest: list[Family] = field(default_factory=list)  # those of the deepest level


class HazardScorer:
    """The acceptance of the nodes of growing drafts, each node scored once.

    Args:
        predictor: trained.
    """

    def __init__(self, predictor: HazardNetwork) -> None:
        self._predictor = predictor
        self._encoded = torch.zeros(0)  # [P, H] of these rounds
        self._rounds: list[_Round] = []

    @torch.no_grad()
    def begin(self, context: Context) -> None:
        """Takes in what is known before rounds draft.

        Raises:
            ValueError: features or recent tokens are missing, or features are not finite.
        """
        if context.recent is None:
            raise ValueError(
                f"recent tokens must be given to predictor {self._predictor.kind}, got none"
            )
        batch = live_batch(self._predictor, context)
        found = repeats(context.recent(WINDOW), self._predictor.k_max)
        lengths = torch.tensor([each.length for each in found], device=context.token_ids.device)
        self._encoded = self._predictor.encode({**batch, "repeated": lengths})
        self._rounds = [_Round(each, [1.0], [each.length > 0]) for each in found]

    def survival(self, row: int) -> list[float]:
        """The probability that each scored node of a round is accepted with all above it, [N]."""
        return self._rounds[row].survival[1:]

    def latest(self, row: int) -> list[Family]:
        """The families of the deepest level that a round drafted anything in."""
        return self._rounds[row].latest

    def score(self, tree: DraftTree) -> None:
        """Scores what is new in the rounds' drafts.

        Args:
            tree: that of the last call since `begin`, or the same grown.
        """
        drafts = _Drafts(tree)
        rows: list[int] = []
        scalars: list[list[float]] = []
        token_ids: list[int] = []
        for row, known in enumerate(self._rounds):
            for best, own in _best_children(drafts, row, known):
                rows.append(row)
                scalars.append(own)
                token_ids.append(drafts.token_ids[row][best])
        probs = iter(self._probs(rows, scalars, token_ids) if rows else [])
        for row, known in enumerate(self._rounds):
            _add_survival(drafts, row, known, probs)

    @torch.no_grad()
    def _probs(
        self, rows: list[int], scalars: list[list[float]], token_ids: list[int]
    ) -> list[list[float]]:
        """[B][1 + M] acceptance of nodes of some rounds, and of the tokens after each of them."""
        device = self._encoded.device
        log_odds = self._predictor.log_odds(
            self._encoded[torch.tensor(rows, device=device)],
            torch.tensor(scalars, device=device),
            torch.tensor(token_ids, device=device),
        )
        found: list[list[float]] = log_odds.sigmoid().tolist()
        return found


class _Drafts:
    """A tree's columns as lists, [P][N], and its families."""

    def __init__(self, tree: DraftTree) -> None:
        self.token_ids = tree.token_ids.tolist()
        self.parents = tree.parents.tolist()
        self.log_probs = tree.log_probs.tolist()
        self.paths = tree.path_log_probs.tolist()  # minus infinity of padding
        self.levels = tree.levels

    def path(self, row: int, node: int) -> tuple[str, float]:
        """The tokens of the path to a node, a character each, and its log-prob as in training."""
        token_ids, log_probs, parents = self.token_ids[row], self.log_probs[row], self.parents[row]
        text, log_prob = "", 0.0
        while node >= 0:
            text = chr(token_ids[node]) + text
            log_prob += max(log_probs[node], LEAST_LOG_PROB)
            node = parents[node]
        return text, max(log_prob, LEAST_PATH_LOG_PROB)

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


def _best_children(drafts: _Drafts, row: int, known: _Round) -> Iterator[tuple[int, list[float]]]:
    """The new best children of a round and their `chain_scalars`."""
    token_ids, parents = drafts.token_ids[row], drafts.parents[row]
    log_probs = drafts.log_probs[row]
    follows, following = known.follows_repeat, known.repeat.following
    first = len(follows) - 1
    follows += [False] * (len(token_ids) - first)
    for depth, best, end in drafts.families(row, first):
        if follows[parents[best] + 1] and depth <= len(following):
            for node in range(best, end):
                follows[node + 1] = token_ids[node] == following[depth - 1]
        own, (text, path) = max(log_probs[best], LEAST_LOG_PROB), drafts.path(row, best)
        goes, matched = follows[best + 1], math.log1p(known.repeat.length)
        num_echoed = echo(known.repeat.text + text, MOST_ECHO)
        scalars = (own, path, math.exp(own), math.exp(path), goes, goes * matched)
        yield best, [*scalars, depth, math.sqrt(depth), *ECHOES[num_echoed]]


def _add_survival(drafts: _Drafts, row: int, known: _Round, probs: Iterator[list[float]]) -> None:
    """Takes in the acceptance of new best children and of what follows them."""
    parents, log_probs, paths = drafts.parents[row], drafts.log_probs[row], drafts.paths[row]
    survival, latest = known.survival, known.latest
    first = len(survival) - 1
    survival += [0.0] * (len(parents) - first)
    for depth, best, end in drafts.families(row, first):
        accept, *ahead = next(probs)
        above = survival[parents[best] + 1]
        survival[best + 1] = above * accept
        weights = [
            math.exp(log_probs[each]) * (paths[each] > -math.inf) for each in range(best + 1, end)
        ]
        share = (above - survival[best + 1]) / (sum(weights) or 1.0)
        survival[best + 2 : end + 1] = [weight * share for weight in weights]
        if latest and latest[0].depth < depth:
            latest.clear()
        latest.append(Family(depth, best, end, ahead))
