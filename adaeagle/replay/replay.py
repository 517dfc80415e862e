"""Replays a policy on a trace: the rounds it would have run, without target or draft model.

At temperature 0 the text does not depend on the policy, so a round's outcome depends only on the
position it begins at (and, for a policy that learns, on what it has learned). The policy is asked
through the same hooks as live, for many positions side by side.

Shapes: T texts, Q positions of all texts, P positions side by side, N drafted nodes, L draft
forwards, R rounds.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.decoding.clock import RoundClock
from adaeagle.policy import Policy
from adaeagle.replay.rounds import Rounds, outcome_of, play, play_nested
from adaeagle.trace.positions import Positions
from adaeagle.trace.trace import Trace

MAX_ROUNDS = 1024
"""Rounds evaluated side by side where their drafts may be large: bounds memory."""
MAX_NODES = 1 << 17
"""Drafted nodes side by side where rounds are known to be like others: what caches hold."""
CALL_NODES = 2048
"""Drafted nodes that take as long as the calls of one draft forward, however few its nodes."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A policy on every text of a trace."""

    rounds: Rounds  # text by text, in the order in which they were run
    num_missing: int  # nodes that were not recorded and had to be drafted


@torch.inference_mode()
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
        ValueError: the policy decides for texts side by side, see `adaeagle.replay.batches`.
    """
    if policy.scope == "batch":
        raise ValueError(f"{type(policy).__name__} decides for texts side by side: replay a batch")
    texts = torch.arange(len(trace.texts)) if texts is None else texts
    if not policy.learns:
        return _anywhere(policy, trace, texts)
    if not policy.state_dict():
        return _in_step(policy, trace, texts, cost)
    each = [_in_step(policy, trace, text, cost) for text in torch.split(texts, 1)]
    missing = sum(one.num_missing for one in each)
    return Replayed(Rounds.join([one.rounds for one in each]), missing)


@torch.inference_mode()
def replay_everywhere(policy: Policy, trace: Trace) -> Replayed:
    """The round of a policy that does not learn at every position, in order: R = Q."""
    policy.reset()
    rows = torch.split(torch.arange(len(trace.positions)), MAX_ROUNDS)
    played = [play(policy, trace, part, -1) for part in rows]
    missing = sum(one.num_missing for one in played)
    return Replayed(Rounds.join([one.rounds for one in played]), missing)


@torch.inference_mode()
def replay_family(policies: Sequence[Policy], trace: Trace) -> list[Rounds]:
    """What `replay_everywhere` makes of each; policies that nest share their drafts."""
    remaining = trace.positions.remaining
    found: dict[int, Rounds] = {}
    for places, deepest in _nests(policies, trace):
        members = [policies[place] for place in places]
        # Where texts may run into their limit drafts are cut short: others are all of one shape.
        is_whole = remaining > deepest
        parts = [
            play_nested(members, trace, some)
            for rows in (is_whole.nonzero().flatten(), (~is_whole).nonzero().flatten())
            for some in torch.split(rows, MAX_ROUNDS)
            if len(some) > 0
        ]
        for place, rounds in zip(places, zip(*parts, strict=True), strict=True):
            joined = Rounds.join(rounds)
            found[place] = joined.take(joined.rows.argsort())
    return [found[place] for place in range(len(policies))]


def _nests(policies: Sequence[Policy], trace: Trace) -> list[tuple[list[int], int]]:
    """Which of the policies share their drafts, and how deep the deepest of them goes."""
    context = trace.positions.context(torch.tensor([0]), -1)
    shares_prefix: dict[Hashable, tuple[list[int], int]] = {}
    for place, policy in enumerate(policies):
        policy.reset()
        budget = policy.plan(context)
        shape = (type(policy), budget.width, budget.max_children)
        key = shape if policy.shares_prefix else place
        places, deepest = shares_prefix.get(key, ([], 0))
        shares_prefix[key] = (
            [*places, place],
            max(deepest, int(torch.as_tensor(budget.depth).max())),
        )
    return list(shares_prefix.values())


@torch.inference_mode()
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
    """Evaluates rounds wherever texts get to, then reads off where they do.

    All texts go on side by side, a round of each in turn, as long as there are many. A few, or
    rounds that cost little, are evaluated at all positions that are left.
    """
    policy.reset()
    positions = trace.positions
    texts = texts[positions.starts.diff()[texts] > 0]
    known = _Known(policy, trace)
    front, num_steps = positions.starts[texts], 0
    rest = [front[:0]]
    while len(front) > 0:
        known.evaluate(front)
        front = known.after[front]
        front = front[front < len(positions)]
        if len(front) == 0:
            break
        num_steps += 1
        # Close to its limit a text's drafts are cut short: others are all of one shape.
        is_late = positions.remaining[front] <= known.deepest
        is_late |= _slow(front, positions, num_steps, known.parts[-1])
        rest.append(_all_from(front[is_late], positions))
        front = front[~is_late]
    rows = torch.cat(rest)
    is_whole = positions.remaining[rows] > known.deepest
    known.evaluate(rows[is_whole])
    known.evaluate(rows[~is_whole])
    rounds = Rounds.join(known.parts)
    visited = walk(known.after, positions, texts)
    return Replayed(rounds.take(known.number[visited]), known.num_missing)


class _Known:
    """Rounds evaluated so far."""

    def __init__(self, policy: Policy, trace: Trace) -> None:
        self._policy, self._trace = policy, trace
        self._num_rounds = 0
        num_positions = len(trace.positions)
        self.parts: list[Rounds] = []
        self.number = torch.full((num_positions,), -1)  # [Q] of the round at each
        self.after = torch.full((num_positions,), num_positions)  # [Q] as in `walk`
        self.deepest = 0  # most draft forwards
        self.num_missing = 0

    def evaluate(self, rows: Tensor) -> None:
        """Adds the rounds at positions `rows` [R]."""
        if len(rows) == 0:
            return
        num_at_once = MAX_ROUNDS
        if self.parts:
            num_at_once = max(1, MAX_NODES // _num_nodes(self.parts[-1]))
        for some in torch.split(rows, num_at_once):
            played = play(self._policy, self._trace, some, -1)
            self.parts.append(played.rounds)
            self.num_missing += played.num_missing
            self.number[some] = torch.arange(len(some)) + self._num_rounds
            self._num_rounds += len(some)
            self.after[some] = _next(played.rounds, self._trace.positions)
            self.deepest = max(self.deepest, int(played.rounds.depth.max()))


def _num_nodes(rounds: Rounds) -> int:
    """Of the largest of these rounds, its root included."""
    return 1 + int(rounds.num_drafted.max())


def _slow(front: Tensor, positions: Positions, num_steps: int, latest: Rounds) -> Tensor:
    """Which texts to evaluate at all positions that are left, rather than wait for: [T] bool.

    The texts that need the most rounds are, as many as make the whole cheapest: what is evaluated
    in vain there against the calls that everybody else's rounds do not need to be waited for.

    Args:
        front: [T] where texts have come to.
        positions: all of them.
        num_steps: rounds that each text has had.
        latest: rounds just evaluated, of which the others are taken to be like.
    """
    # Small numbers, asked for after every step: NumPy takes a third of the time.
    done, left = positions.within[front].numpy(), positions.num_left[front].numpy()
    typical = done.mean() / num_steps  # tokens a round
    pace = np.maximum((done + typical) / (num_steps + 1), 1.0)
    order = np.argsort(-left / pace)
    in_vain = (left * (1 - 1 / pace))[order].cumsum() * _num_nodes(latest)
    calls = (left / pace)[order] * ((1 + int(latest.depth.max())) * CALL_NODES)
    # Entry m: the first m of `order` at once, the others round by round.
    costs = np.append(0.0, in_vain) + np.append(calls, 0.0)
    is_slow = np.zeros(len(front), dtype=bool)
    is_slow[order[: costs.argmin()]] = True
    return torch.from_numpy(is_slow)


def _all_from(front: Tensor, positions: Positions) -> Tensor:
    """All positions of texts from those at `front` on, one of each text."""
    counts = positions.num_left[front]
    starts = torch.repeat_interleave(front - (counts.cumsum(0) - counts), counts)
    return starts + torch.arange(len(starts))


def walk(after: Tensor, positions: Positions, texts: Tensor | None = None) -> Tensor:
    """The positions at which rounds begin, [R] in order.

    Args:
        after: [Q] the position that follows the round at each; Q where it ends its text.
        positions: all of them.
        texts: [T] int64, whose rounds, ascending; None: all.
    """
    texts = torch.arange(len(positions.starts) - 1) if texts is None else texts
    starts = positions.starts[texts[positions.starts.diff()[texts] > 0]]
    next_of, end = after.tolist(), len(positions)  # single steps are no work for tensors
    visited: list[int] = []
    for start in starts.tolist():
        here = start
        while here < end:
            visited.append(here)
            here = next_of[here]
    return torch.tensor(visited, dtype=torch.int64)


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
