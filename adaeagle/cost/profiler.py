"""Measures what the parts of a round cost, where they are paid: inside real rounds.

A forward measured alone finds weights and caches as its last run left them and looks cheaper than
it is. So the engine decodes real texts here, and a probing policy gives every round another shape,
drawn at random: all shapes are interleaved, and a slow moment hits all of them alike.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

from adaeagle.cost.grid import SPAN, Grid, Shape
from adaeagle.cost.model import LOOKUP_SECONDS
from adaeagle.decoding.generate import generate, stream_batch
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.suffix import SuffixDrafter
from adaeagle.models.target import Target
from adaeagle.policy import Budget, Context, Policy
from adaeagle.records import Round

SHORT_PROMPTS = (8, 16, 32, 64)
"""Prompts measured for their prefill alone, in tokens, beside those of the contexts."""
LOOKUP_PROMPTS = 3
"""Prompts whose levels of looked-up children are timed."""


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """One round as it ran."""

    is_tree: bool
    context: int  # tokens committed before the root
    widths: tuple[int, ...]  # nodes of each draft forward
    nodes: int  # drafted tokens verified
    caught_up: int  # tokens that the first draft forward took in; 0 where there is none
    forward_seconds: tuple[float, ...]
    verify_seconds: float
    other_seconds: float

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "RoundTimes":
        lists = {name: tuple(raw[name]) for name in ("widths", "forward_seconds")}
        return cls(**{**raw, **lists})


@dataclass(frozen=True, slots=True)
class TextTimes:
    """One text as it ran."""

    context: int | None  # of the grid; None: measured for its prefill alone
    prompt_tokens: int
    prefill_seconds: float
    draft_prefill_seconds: float  # its first draft forward, which read the prompt
    rounds: tuple[RoundTimes, ...]  # without the one of that forward
    seconds: float  # of the whole, by the wall
    ended: str  # UTC
    num_texts: int = 1  # side by side, each of the same shapes; rounds count one text's nodes

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "TextTimes":
        rounds = tuple(RoundTimes.from_json(found) for found in raw["rounds"])
        return cls(**{**raw, "rounds": rounds})


class _Probe(Policy):
    """Gives each round the next of the shapes it was handed."""

    static_shape = True

    def __init__(self, shapes: Iterator[Shape]) -> None:
        self._shapes = shapes
        self.shape = Shape.chain(0)  # of the latest round

    def plan(self, context: Context) -> Budget:
        self.shape = next(self._shapes)
        return self.shape.budget


class Profiler:
    """Decodes texts at every context of a grid and times their parts.

    Args:
        target: verifies.
        drafter: drafts.
        grid: what to measure.
        prompts: token ids; each is cut or repeated to the lengths needed.
        seed: of the shapes and of every order.
        num_texts: decoded side by side.

    Raises:
        ValueError: a context or a width does not fit the models.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter,
        grid: Grid,
        prompts: Sequence[Sequence[int]],
        *,
        seed: int = 0,
        num_texts: int = 1,
    ) -> None:
        least, most = grid.room(target.max_length)
        if not (least <= grid.contexts[0] and grid.contexts[-1] <= most):
            raise ValueError(
                f"contexts must be in {least}..{most}, as {target.name} holds {target.max_length} "
                f"tokens and drafts go {grid.deepest} deep, got {grid.contexts}"
            )
        vocab_size = target.vocab_size if drafter.vocab_map is None else len(drafter.vocab_map)
        if grid.widths[-1] > vocab_size:
            raise ValueError(f"widths must be <= {vocab_size} draft tokens, got {grid.widths}")
        if not prompts or not all(prompts):
            raise ValueError("prompts must be at least one, of at least one token each")
        self._target, self._drafter, self._grid, self._prompts = target, drafter, grid, prompts
        self._seed = seed
        self._draws = random.Random(seed)
        self._num_texts = 0
        self._batch_size = num_texts
        self._shapes = {context: self._shuffled() for context in grid.contexts}

    def _shuffled(self) -> Iterator[Shape]:
        while True:
            yield from self._grid.deck(self._draws)

    def warm_up(self) -> None:
        """Runs as many rounds as there are shapes where texts are shortest, and forgets them."""
        num_left = len(self._grid.deck(self._draws))
        while num_left > 0:
            num_left -= len(self._around(self._grid.contexts[0]).rounds)

    def texts(self, num_before: int = 0) -> Iterator[TextTimes]:
        """Without end: a text at every context, and the short prompts, in ever new orders.

        Args:
            num_before: texts that an earlier run has measured, so that others are drawn now.
        """
        self._draws.seed(f"{self._seed}/{num_before}")
        self._num_texts = num_before
        longest = self._grid.contexts[0] - SPAN // 2
        places: list[tuple[Callable[[int], TextTimes], int]] = [
            *((self._around, context) for context in self._grid.contexts),
            *((self._begun, length) for length in SHORT_PROMPTS if length < longest),
        ]
        while True:
            self._draws.shuffle(places)
            for measure, num_tokens in places:
                yield measure(num_tokens)

    def _around(self, context: int) -> TextTimes:
        """A text whose rounds lie around a context, half of them before it."""
        return self._text(context, context - SPAN // 2, self._shapes[context], SPAN)

    def _begun(self, num_tokens: int) -> TextTimes:
        """A prompt and the round that reads it, no more."""
        return self._text(None, num_tokens, iter([Shape.chain(1)]), 1)

    def _text(
        self, context: int | None, num_tokens: int, shapes: Iterator[Shape], span: int
    ) -> TextTimes:
        probe, size = _Probe(shapes), self._batch_size
        prompts = [self._prompt(num_tokens) for _ in range(size)]
        began = time.perf_counter()
        pieces = stream_batch(
            self._target,
            self._drafter,
            probe,
            prompts,
            max_batch=size,
            # Room beyond the span, so that no round is cut short.
            max_new_tokens=SPAN + self._grid.deepest + 2,
            stop_token_ids=[],
        )
        prefill_seconds, *_ = [next(pieces)[1].seconds for _ in prompts]
        draft_prefill_seconds: float | None = None
        rounds: list[RoundTimes] = []
        lengths = [num_tokens] * size  # committed
        pending = 0  # tokens that the draft model has not taken in
        while draft_prefill_seconds is None or max(lengths) < num_tokens + span:
            emitted = [next(pieces)[1] for _ in prompts]
            found, shape = emitted[0].round, probe.shape
            assert found is not None
            if draft_prefill_seconds is None and found.depth:
                draft_prefill_seconds = found.draft_forward_seconds[0] / size
            else:
                assert (found.depth, found.num_verified) == (len(shape.widths), shape.nodes)
                before = sum(lengths) // size
                rounds.append(_times(found, shape, before, pending if found.depth else 0))
            most = max(len(piece.token_ids) for piece in emitted)
            pending = most + (0 if found.depth else pending)
            lengths = [
                length + len(piece.token_ids)
                for length, piece in zip(lengths, emitted, strict=True)
            ]
        return TextTimes(
            context=context,
            prompt_tokens=num_tokens,
            prefill_seconds=prefill_seconds,
            draft_prefill_seconds=draft_prefill_seconds,
            rounds=tuple(rounds),
            seconds=time.perf_counter() - began,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            num_texts=size,
        )

    def _prompt(self, num_tokens: int) -> list[int]:
        """The end of a prompt, where an answer begins; a short one is repeated before it."""
        prompt = list(self._prompts[self._num_texts % len(self._prompts)])
        self._num_texts += 1
        return (prompt * -(-num_tokens // len(prompt)))[-num_tokens:]


class _Beam(Policy):
    """A small tree in every round."""

    def plan(self, context: Context) -> Budget:
        return Budget(depth=4, width=2)


def lookup_seconds(target: Target, prompts: Sequence[Sequence[int]]) -> float:
    """What a level of children that are looked up takes: the median of the first prompts' levels.

    Args:
        target: decodes.
        prompts: token ids.
    """
    seconds: list[float] = []
    for prompt in prompts[:LOOKUP_PROMPTS]:
        room = target.max_length - len(prompt)
        out = generate(
            target,
            SuffixDrafter(),
            _Beam(),
            prompt,
            max_new_tokens=min(SPAN, room),
            stop_token_ids=[],
        )
        # The first round of a text takes in its prompt.
        drafting = [done.draft_forward_seconds for done in out.rounds if done.depth]
        seconds += [level for levels in drafting[1:] for level in levels]
    return median(seconds) if seconds else LOOKUP_SECONDS


def _times(found: Round, shape: Shape, context: int, caught_up: int) -> RoundTimes:
    return RoundTimes(
        is_tree=shape.is_tree,
        context=context,
        widths=shape.widths,
        nodes=shape.nodes,
        caught_up=caught_up,
        forward_seconds=found.draft_forward_seconds,
        verify_seconds=found.verify_seconds,
        other_seconds=found.other_seconds,
    )
