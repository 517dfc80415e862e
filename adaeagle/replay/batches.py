"""Replays texts side by side from traces of single texts: which rounds run together, and when.

At temperature 0 what a round makes of a text depends on its position alone, so accepted lengths are
those of live decoding; the clock is a cost model's, without what the policy takes to decide. Texts
enter and leave as in `adaeagle.decoding.generate.generate_batch`, and besides as they arrive.

Shapes: T texts, P places side by side, R rounds, S steps, each of one round in every place.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaeagle.cost.batches import side_by_side
from adaeagle.cost.model import CostModel, RoundShapes
from adaeagle.policy import Policy
from adaeagle.replay.rounds import Played, Rounds, outcome_of, play
from adaeagle.trace.trace import Trace


@dataclass(frozen=True, slots=True)
class BatchReplayed:
    """A policy on the texts of a trace, side by side."""

    rounds: Rounds  # R, in the order of time
    steps: Tensor  # [R] int64, which of the S steps each was part of
    step_seconds: Tensor  # [S] float64
    latencies: Tensor  # [T] float64, seconds from a text's arrival to its end
    num_tokens: int  # of all texts
    seconds: float  # from the first arrival to the last end

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def accepted_share(self) -> float:
        """Of the verified nodes; 1 where there was none."""
        num_verified = int(self.rounds.num_verified.sum())
        return int(self.rounds.num_accepted.sum()) / num_verified if num_verified else 1.0


def poisson(num_texts: int, rate: float, seed: int = 0) -> list[float]:
    """Arrival times of texts of which `rate` come in a second, on average; the first at 0."""
    if not rate > 0:
        raise ValueError(f"rate must be > 0, got {rate}")
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.empty(num_texts, dtype=torch.float64).exponential_(rate, generator=generator)
    times: list[float] = (gaps.cumsum(0) - gaps[:1]).tolist()
    return times


@torch.inference_mode()
def replay_batch(
    policy: Policy,
    trace: Trace,
    cost: CostModel,
    batch_size: int,
    arrivals: Sequence[float] | None = None,
) -> BatchReplayed:
    """Runs the texts of a trace under one policy, at most `batch_size` side by side.

    Args:
        policy: of any scope; one that learns from each round of a text alone takes texts in groups.
        trace: its texts enter in their order.
        cost: the clock, see `adaeagle.cost.batches`.
        batch_size: at least 1.
        arrivals: of each text, in seconds, ascending; None: all are there from the start.

    Raises:
        ValueError: an argument is out of its range.
        NotRecordedError: the policy asks for what the trace neither holds nor can draft.
    """
    num_texts = len(trace.texts)
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    times = [0.0] * num_texts if arrivals is None else list(arrivals)
    if len(times) != num_texts or times != sorted(times):
        raise ValueError(f"arrivals must be {num_texts} times that ascend, got {times[:5]}...")
    return _Run(policy, trace, cost, batch_size, times).run()


class _Run:
    """One replay; see `replay_batch` for the arguments."""

    def __init__(
        self,
        policy: Policy,
        trace: Trace,
        cost: CostModel,
        batch_size: int,
        arrivals: list[float],
    ) -> None:
        self._policy, self._trace, self._cost = policy, trace, cost
        self._positions = trace.positions
        self._arrivals, self._now = arrivals, arrivals[0]
        # What such a policy learns is one entry a place, so that places keep their texts.
        self._keeps_places = policy.learns and policy.scope == "row"
        self._batch_size = 1 if self._keeps_places and policy.state_dict() else batch_size
        self._waiting = deque(range(len(arrivals)))
        self._places: list[int] = []  # the text in each
        self._here: list[int] = self._positions.starts[
            :-1
        ].tolist()  # [T] the position each has come to
        self._ends: list[int] = self._positions.starts[1:].tolist()
        self._num_rounds = [0] * len(arrivals)
        self._undrafted = set(range(len(arrivals)))  # texts the draft model has not read
        self._ended = list(arrivals)  # [T] when
        self._models: dict[int, CostModel] = {}
        self._parts: list[Rounds] = []
        self._step_seconds: list[float] = []

    def run(self) -> BatchReplayed:
        self._policy.reset()
        while self._waiting or any(map(self._is_open, self._places)):
            self._exchange()
            if self._places:
                self._step()
        counts = torch.tensor([len(part.rows) for part in self._parts])
        ended = torch.tensor(self._ended, dtype=torch.float64)
        return BatchReplayed(
            rounds=Rounds.join(self._parts),
            steps=torch.repeat_interleave(torch.arange(len(counts)), counts),
            step_seconds=torch.tensor(self._step_seconds, dtype=torch.float64),
            latencies=ended - torch.tensor(self._arrivals, dtype=torch.float64),
            num_tokens=sum(len(text.token_ids) for text in self._trace.texts),
            seconds=float(ended.max()) - self._arrivals[0],
        )

    def _is_open(self, text: int) -> bool:
        return self._here[text] < self._ends[text]

    def _has_arrived(self) -> bool:
        return bool(self._waiting) and self._arrivals[self._waiting[0]] <= self._now

    def _exchange(self) -> None:
        """Between two steps: texts that have ended leave, waiting ones enter, one at a time."""
        open_places = [self._is_open(text) for text in self._places]
        if not any(open_places):
            self._places = []
            if self._waiting:
                self._now = max(self._now, self._arrivals[self._waiting[0]])
            if self._keeps_places:
                self._policy.reset()
            while self._has_arrived() and len(self._places) < self._batch_size:
                self._begin(len(self._places))
        elif self._keeps_places:
            return
        elif self._has_arrived():
            if not all(open_places):
                self._begin(open_places.index(False))
            elif len(self._places) < self._batch_size:
                self._begin(len(self._places))
        else:
            self._places = [text for text in self._places if self._is_open(text)]

    def _begin(self, place: int) -> None:
        """The next text runs its prompt, and takes a place unless that was all of it."""
        text = self._waiting.popleft()
        num_prompt = torch.tensor([len(self._trace.texts[text].prompt_ids)])
        self._now += float(self._cost.prefill_seconds(num_prompt))
        self._ended[text] = self._now
        if self._is_open(text):
            self._places[place : place + 1] = [text]

    def _step(self) -> None:
        """One round in every place."""
        texts = self._places
        is_open = torch.tensor([self._is_open(text) for text in texts])
        # A text at its end keeps its place for a while; it drafts and teaches nothing.
        rows = torch.tensor([min(self._here[text], self._ends[text] - 1) for text in texts])
        number = min(self._num_rounds[text] for text in texts)
        played = play(self._policy, self._trace, rows, number, is_open)
        draft, verify, other = self._seconds(played, texts)
        if self._policy.learns:
            outcome = outcome_of(played, is_open, self._positions, None)
            ones = torch.ones(len(texts), dtype=torch.float64)
            self._policy.observe(
                replace(outcome, draft_seconds=draft * ones, verify_seconds=verify * ones)
            )
        self._step_seconds.append(draft + verify + other)
        self._now += draft + verify + other
        self._parts.append(played.rounds.take(is_open))
        for text, emitted in zip(texts, played.rounds.num_emitted.tolist(), strict=True):
            self._num_rounds[text] += 1
            if self._is_open(text):
                self._here[text] += emitted
                self._ended[text] = self._now

    def _seconds(self, played: Played, texts: Sequence[int]) -> tuple[float, float, float]:
        """What the places' common round takes: drafting, verification, and the rest."""
        if len(texts) not in self._models:
            self._models[len(texts)] = side_by_side(self._cost, len(texts))
        model, shapes = self._models[len(texts)], played.rounds.shapes(self._positions)
        widths = shapes.widths.clone()
        new_seconds = 0.0
        if widths.shape[1] > 0:
            new = [
                place
                for place, text in enumerate(texts)
                if text in self._undrafted and widths[place, 0] > 0
            ]
            self._undrafted -= {texts[place] for place in new}
            widths[new, 0] = 0  # a prompt is read by a forward of its own
            prompts = [len(self._trace.texts[texts[place]].prompt_ids) for place in new]
            sizes = torch.tensor(prompts, dtype=torch.int64)
            new_seconds = float(self._cost.draft_prefill_seconds(sizes).sum())
        joint = _joint(replace(shapes, widths=widths))
        draft, verify, other = (
            float(seconds(joint))
            for seconds in (model.draft_seconds, model.verify_seconds, model.other_seconds)
        )
        return draft + new_seconds, verify, other


def _joint(shapes: RoundShapes) -> RoundShapes:
    """The sums over rounds side by side, as one round."""
    assert shapes.caught_up is not None
    assert shapes.num_lookups is not None
    return RoundShapes(
        contexts=shapes.contexts.sum(0, keepdim=True) // len(shapes.contexts),
        widths=shapes.widths.sum(0, keepdim=True),
        nodes=shapes.nodes.sum(0, keepdim=True),
        is_tree=shapes.is_tree.any(0, keepdim=True),
        caught_up=shapes.caught_up.amax(0, keepdim=True),
        num_lookups=shapes.num_lookups.amax(0, keepdim=True),
    )
