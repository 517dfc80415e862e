"""Replays a policy on a trace: the rounds it would have run, without target or draft model.

At temperature 0 the text does not depend on the policy, so a round's outcome depends only on the
position it begins at (and, for a policy that learns, on what it has learned). The policy is asked
through the same hooks as live, for many positions side by side.

Shapes: T texts, Q positions of all texts, P positions side by side, N drafted nodes, L draft
forwards, R rounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from adaeagle.clock import RoundClock
from adaeagle.cost import CostModel
from adaeagle.policy import Policy
from adaeagle.replay_rounds import Rounds, outcome_of, play
from adaeagle.trace.positions import Positions
from adaeagle.trace.trace import Trace

MAX_ROUNDS = 1024
"""Rounds evaluated side by side: bounds memory."""
MIN_ROUNDS = 256
"""Rounds evaluated side by side where there is a choice: fewer are not worth the calls."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A policy on every text of a trace."""

    rounds: Rounds  # text by text, in the order in which they were run
    num_missing: int  # nodes that were not recorded and had to be drafted


def replay(
    policy: Policy, trace: Trace, cost: CostModel | None = None, texts: Tensor | None = None
) -> Replayed:
    """Runs the texts of a trace under a policy.

    A policy that learns within a text is run on all texts in step, one that learns across texts on
    one text after another, any other at many positions at once.

    Args:
        policy: begins in the state it is in.
        trace: what is replayed.
        cost: gives policies that learn from seconds their clock; None: it stands still.
        texts: [T] int64, which of the trace, ascending; None: all.

    Raises:
        NotRecordedError: the policy asks for what the trace neither holds nor can draft.
    """
    texts = torch.arange(len(trace.texts)) if texts is None else texts
    if not policy.learns:
        return _anywhere(policy, trace, texts)
    if not policy.state_dict():
        return _in_step(policy, trace, texts, cost)
    each = [_in_step(policy, trace, text, cost) for text in torch.split(texts, 1)]
    missing = sum(one.num_missing for one in each)
    return Replayed(Rounds.join([one.rounds for one in each]), missing)


def replay_everywhere(policy: Policy, trace: Trace) -> Replayed:
    """The round of a policy that does not learn at every position, in order: R = Q."""
    policy.reset()
    rows = torch.split(torch.arange(len(trace.positions)), MAX_ROUNDS)
    played = [play(policy, trace, part, -1) for part in rows]
    missing = sum(one.num_missing for one in played)
    return Replayed(Rounds.join([one.rounds for one in played]), missing)


def time_hooks(policy: Policy, trace: Trace, cost: CostModel | None, num_rounds: int) -> Tensor:
    """Seconds of a policy's hooks in each of some rounds, run one at a time as live: [R] float64.

    Args:
        policy: is left in another state.
        trace: texts are taken from its start.
        cost: the clock of policies that read one.
        num_rounds: at most.
    """
    positions = trace.positions
    seconds: list[float] = []
    for text in range(len(trace.texts)):
        policy.reset()
        here, end = int(positions.starts[text]), int(positions.starts[text + 1])
        while here < end and len(seconds) < num_rounds:
            clock = RoundClock(torch.device("cpu"))
            played = play(policy, trace, torch.tensor([here]), len(seconds), clock=clock)
            if policy.learns:
                outcome = outcome_of(played, torch.tensor([True]), positions, cost)
                clock.ends("other")
                policy.observe(outcome)
                clock.ends("policy")
            seconds.append(clock.peek()["policy"])
            here += int(played.rounds.num_emitted)
    return torch.tensor(seconds, dtype=torch.float64)


def _anywhere(policy: Policy, trace: Trace, texts: Tensor) -> Replayed:
    """Evaluates rounds wherever texts can get to, then reads off where they do.

    A text is begun at its start and at some positions further on: what is evaluated once is not
    again, and paths from different starts soon meet.
    """
    policy.reset()
    positions = trace.positions
    num_positions = len(positions)
    round_of = torch.full((num_positions + 1,), -1)  # the last entry: where texts end
    texts = texts[positions.starts.diff()[texts] > 0]
    here = torch.isin(positions.text_of, texts).nonzero().flatten()
    stride = max(1, len(here) // max(1, MIN_ROUNDS - len(texts)))
    front = torch.unique(torch.cat((positions.starts[texts], here[::stride])))
    parts: list[Rounds] = []
    num_rounds = num_missing = 0
    while len(front) > 0:
        nexts = []
        for rows in torch.split(front, MAX_ROUNDS):
            played = play(policy, trace, rows, -1)
            parts.append(played.rounds)
            num_missing += played.num_missing
            round_of[rows] = torch.arange(num_rounds, num_rounds + len(rows))
            num_rounds += len(rows)
            nexts.append(_next(played.rounds, positions))
        reached = torch.unique(torch.cat(nexts))
        front = reached[(reached < num_positions) & (round_of[reached] < 0)]
    rounds = Rounds.join(parts)
    after = torch.full((num_positions,), num_positions)
    after[rounds.rows] = _next(rounds, positions)
    return Replayed(rounds.take(round_of[walk(after, positions, texts)]), num_missing)


def walk(after: Tensor, positions: Positions, texts: Tensor | None = None) -> Tensor:
    """The positions at which rounds begin, [R] in order.

    Args:
        after: [Q] the position that follows the round at each; Q where it ends its text.
        positions: all of them.
        texts: [T] int64, whose rounds; None: all.
    """
    texts = torch.arange(len(positions.starts) - 1) if texts is None else texts
    here = positions.starts[texts[positions.starts.diff()[texts] > 0]]
    visited = []
    while len(here) > 0:
        visited.append(here)
        here = after[here]
        here = here[here < len(positions)]
    return torch.cat(visited).sort().values  # positions are numbered text by text


def _next(rounds: Rounds, positions: Positions) -> Tensor:
    """[R] the position after each round; Q where it ended its text."""
    goes_on = rounds.num_emitted < positions.num_left[rounds.rows]
    return torch.where(goes_on, rounds.rows + rounds.num_emitted, len(positions))


def _in_step(policy: Policy, trace: Trace, texts: Tensor, cost: CostModel | None) -> Replayed:
    """Runs texts [P] side by side, a round of each in turn; the policy observes them together."""
    policy.reset()
    positions = trace.positions
    here, ends = positions.starts[texts], positions.starts[texts + 1]
    parts: list[Rounds] = []
    num_missing = 0
    while (is_active := here < ends).any():
        # A text at its end keeps its place beside the others; it drafts and teaches nothing.
        rows = torch.where(is_active, here, ends - 1)
        played = play(policy, trace, rows, len(parts), is_active)
        num_missing += played.num_missing
        policy.observe(outcome_of(played, is_active, positions, cost))
        parts.append(played.rounds.take(is_active))
        here = torch.where(is_active, here + played.rounds.num_emitted, here)
    rounds = Rounds.join(parts)
    return Replayed(rounds.take(rounds.rows.argsort()), num_missing)


def texts_of(replayed: Replayed, trace: Trace) -> Iterator[Rounds]:
    """The rounds of each text, in its order."""
    texts = trace.positions.text_of[replayed.rounds.rows]
    for number in range(len(trace.texts)):
        yield replayed.rounds.take(texts == number)
