"""Texts side by side, replayed: their rounds are those of `generate_batch`, their clock adds up."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from adaeagle import Target, generate_batch, get_policy
from adaeagle.cost.batches import side_by_side
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Prompt
from adaeagle.drafters.base import Drafter
from adaeagle.replay.batches import BatchReplayed, poisson, replay_batch
from adaeagle.replay.replay import replay
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.trace import Trace

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]

LIMITS = (30, 12, 40, 2, 25, 18, 33)
COST = replace(
    CostModel.linear(constant=0.01, draft=0.02, verify=1.0, node=0.05, prefill=0.03),
    batches={4: CostModel.linear(constant=0.02, draft=0.03, verify=1.5, node=0.04)},
)
SPECS = (
    "vanilla",
    "chain(length=4)",
    "eagle2(depth=4, width=4, nodes=11)",
    "hf_heuristic(start=3)",
    "batch_table([[1, 5], [2, 3], [3, 2]])",
    "batch_slots(length=6, total=7, floor=1.3)",
    "batch_select(eagle2(depth=4, width=4, nodes=11), total=13)",
)


@pytest.fixture(scope="module")
def pair(make_pair: MakePair) -> tuple[Target, Drafter]:
    return make_pair("model")


@pytest.fixture(scope="module")
def trace(pair: tuple[Target, Drafter], make_prompt: MakePrompt) -> Trace:
    target, drafter = pair
    envelope = ("chain(length=12)", "eagle2(depth=4, width=4)")
    texts = []
    for number, limit in enumerate(LIMITS):
        recorder = Recorder(target, drafter, envelope, max_new_tokens=limit)
        prompt_ids = make_prompt(4 + 3 * number, number)
        texts += recorder.record(Prompt(str(number), token_ids=tuple(prompt_ids)))
    return Trace(texts, target.vocab_size, lambda: drafter)


def rounds_of(replayed: BatchReplayed, trace: Trace) -> list[list[tuple[int, int, int]]]:
    rounds = replayed.rounds
    columns = (trace.positions.text_of[rounds.rows], rounds.depth, rounds.num_verified)
    found: list[list[tuple[int, int, int]]] = [[] for _ in trace.texts]
    for text, depth, verified, emitted in zip(
        *(column.tolist() for column in (*columns, rounds.num_emitted)), strict=True
    ):
        found[text].append((depth, verified, emitted))
    return found


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("spec", SPECS)
def test_rounds_are_those_of_live_decoding(
    spec: str, batch_size: int, pair: tuple[Target, Drafter], trace: Trace
) -> None:
    target, drafter = pair
    prompts = [text.prompt_ids.tolist() for text in trace.texts]
    outs = generate_batch(
        target, drafter, spec, prompts, max_batch=batch_size, max_new_tokens=LIMITS
    )
    replayed = replay_batch(get_policy(spec), trace, COST, batch_size)
    live = [[(r.depth, r.num_verified, r.num_emitted) for r in out.rounds] for out in outs]
    assert rounds_of(replayed, trace) == live
    assert replayed.num_tokens == sum(len(out.token_ids) for out in outs)


def test_the_clock_adds_up(trace: Trace) -> None:
    """Plain decoding of texts that are there from the start."""
    found = replay_batch(get_policy("vanilla"), trace, COST, len(LIMITS))
    prompts = torch.tensor([len(text.prompt_ids) for text in trace.texts])
    prefills = float(COST.prefill_seconds(prompts).sum())
    counts = torch.bincount(found.steps)
    steps = [1.0 + 0.01 if n == 1 else None for n in counts.tolist()]
    for seconds, expected in zip(found.step_seconds.tolist(), steps, strict=True):
        assert expected is None or seconds == pytest.approx(expected)
    five = side_by_side(COST, 5)
    assert five.chain.verify.median[0, 0] == pytest.approx(1.0 + 4 * 0.5 / 3)
    assert found.seconds == pytest.approx(prefills + float(found.step_seconds.sum()))
    assert found.latencies.max() == pytest.approx(found.seconds)
    assert found.accepted_share == 1.0


def test_one_at_a_time_is_the_replay_of_single_texts(trace: Trace) -> None:
    policy = get_policy("chain(length=4)")
    alone = replay(policy, trace).rounds
    found = replay_batch(policy, trace, COST, 1)
    assert torch.equal(found.rounds.rows, alone.rows)
    assert torch.equal(found.rounds.num_accepted, alone.num_accepted)
    assert 0 < found.accepted_share < 1


def test_texts_wait_for_their_arrival(trace: Trace) -> None:
    late = [1000.0 * number for number in range(len(LIMITS))]
    policy = get_policy("batch_slots(length=6, total=7)")
    found = replay_batch(policy, trace, COST, 4, late)
    assert torch.bincount(found.steps).max() == 1  # each has ended before the next one comes
    assert found.seconds == pytest.approx(late[-1] + float(found.latencies[-1]))
    busy = replay_batch(policy, trace, COST, 4, poisson(len(LIMITS), rate=0.2))
    assert busy.seconds < found.seconds
    assert torch.bincount(busy.steps).max() > 1
    assert bool((busy.latencies > 0).all())


def test_arrivals_are_checked(trace: Trace) -> None:
    policy = get_policy("vanilla")
    with pytest.raises(ValueError, match="arrivals must be 7 times that ascend"):
        replay_batch(policy, trace, COST, 2, [0.0, 1.0])
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        replay_batch(policy, trace, COST, 0)
    with pytest.raises(ValueError, match="rate must be > 0"):
        poisson(3, 0.0)
    with pytest.raises(ValueError, match="decides for texts side by side"):
        replay(get_policy("batch_table"), trace)
    times = poisson(1000, rate=4.0, seed=1)
    assert times[0] == 0.0
    assert times[-1] == pytest.approx(250, rel=0.15)
