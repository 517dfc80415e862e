"""What perfect knowledge of the distributions would make of sampled text, without the coins.

At a temperature above 0 a drafted token is accepted by a coin. An oracle that knows how the coins
fall (`adaeagle.replay.oracle`) promises what no rule can have. This one knows the target's and the
draft's distribution after every token of the text, so the chance of each acceptance, and nothing
more: it picks the chain's length that makes the rest of the text cheapest in expectation. Coins
are not seen before verification, so no rule does better by deciding token by token.

The recorded text stands in for the text that is sampled: chances are those along it.

Shapes: Q positions of all texts, K longest chain, R recorded choices of the draft, T of the target.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from adaeagle.trace.positions import Positions
from adaeagle.trace.trace import Trace


class Chances(NamedTuple):
    """Chances that drawn tokens of a chain are accepted, at temperature 1, within bounds."""

    low: Tensor  # [Q, K] float64; 0 where the draft was not recorded along the text
    high: Tensor  # [Q, K] float64


def acceptance_chances(trace: Trace, longest: int) -> Chances:
    """1 - TV(target, draft) of each token of a chain along the text, given all before it.

    A trace holds the best choices of both; the bounds meet where these hold all the probability.

    Args:
        trace: what was recorded.
        longest: K.
    """
    envelope, positions = trace.envelope, trace.positions
    top_ids = torch.cat([text.top_token_ids for text in trace.texts])
    top_probs = torch.cat([text.top_log_probs for text in trace.texts]).double().exp()
    rows, node = torch.arange(len(positions)), envelope.roots
    bounds = []
    for depth in range(1, longest + 1):
        known = (node >= 0) & (positions.num_left >= depth)
        run = node.clamp(min=0)
        place = (positions.new_places(rows) + depth).clamp(max=len(top_ids) - 1)
        draft_ids, draft = envelope.token_ids[run], envelope.log_probs[run].double().exp()
        same = (top_ids[place].unsqueeze(2) == draft_ids.unsqueeze(1)).double()  # [Q, T, R]
        pairs = torch.minimum(top_probs[place].unsqueeze(2), draft.unsqueeze(1))
        low = (same * pairs).sum((1, 2))
        rests = (
            1 - (same.amax(2) * top_probs[place]).sum(1),
            1 - (same.amax(1) * draft).sum(1),
        )
        high = low + torch.minimum(*rests).clamp(min=0)
        bounds.append((low * known, high * known))
        matches = (draft_ids == positions.expected(rows, depth).unsqueeze(1)) & known.unsqueeze(1)
        is_found, rank = matches.max(dim=1)
        children = envelope.children[run].gather(1, rank.unsqueeze(1)).squeeze(1)
        node = children.masked_fill(~is_found, -1)
    low, high = (torch.stack(bound, dim=1) for bound in zip(*bounds, strict=True))
    return Chances(low, high.clamp(max=1.0))


class Expected(NamedTuple):
    """What a rule makes of texts in expectation."""

    lengths: Tensor  # [Q] int64, of the chain that is drafted at each position
    seconds: Tensor  # [Q + 1] float64, from each position to its text's end; the last is 0


def best_expected(chances: Tensor, seconds: Tensor, positions: Positions) -> Expected:
    """The lengths of the least expected time: no rule that does not see the coins is faster.

    Args:
        chances: [Q, K] of acceptance, given all before it.
        seconds: [K + 1, Q] of a round with a chain of each length.
        positions: all of them.
    """
    return _backwards(chances, seconds, positions, lambda totals, rows: totals.argmin(1))


def expected_of(
    lengths: Tensor, chances: Tensor, seconds: Tensor, positions: Positions
) -> Expected:
    """What rounds of given lengths [Q] come to; the others as in `best_expected`."""
    return _backwards(chances, seconds, positions, lambda totals, rows: lengths[rows])


def _backwards(
    chances: Tensor,
    seconds: Tensor,
    positions: Positions,
    choose: Callable[[Tensor, Tensor], Tensor],
) -> Expected:
    """From the ends of texts, all texts side by side; `choose` sees totals [P, K + 1] of rows."""
    num_positions, longest = chances.shape
    to_go = torch.zeros(num_positions + 1, dtype=torch.float64)
    lengths = torch.zeros(num_positions, dtype=torch.int64)
    ones = torch.ones(num_positions, 1, dtype=torch.float64)
    survival = torch.cat((ones, chances.double().cumprod(1)), dim=1)  # [Q, K + 1]
    left, steps = positions.num_left, torch.arange(1, longest + 2)
    for rows in torch.split(left.argsort(stable=True), torch.bincount(left)[1:].tolist()):
        emitted = rows.unsqueeze(1) + steps
        after = torch.where(steps < left[rows].unsqueeze(1), emitted, num_positions)
        later = to_go[after]  # [P, K + 1], where so many are accepted and one more is emitted
        falls = (survival[rows, :-1] - survival[rows, 1:]) * later[:, :-1]
        sums = torch.cat((torch.zeros(len(rows), 1), falls.cumsum(1)), dim=1)
        totals = seconds[:, rows].T + sums + survival[rows] * later
        lengths[rows] = choose(totals, rows)
        to_go[rows] = totals.gather(1, lengths[rows].unsqueeze(1)).squeeze(1)
    return Expected(lengths, to_go)


def expected_rate(found: Expected, positions: Positions) -> float:
    """Tokens a second over all texts, without those of the prefills."""
    starts = positions.starts[:-1][positions.starts.diff() > 0]
    return float(len(positions) / found.seconds[starts].sum())
