"""The oracle that knows distributions but no coins, against brute force on small texts."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from adaeagle.replay.expected import (
    acceptance_chances,
    best_expected,
    expected_of,
    expected_rate,
)
from adaeagle.testing.toy_trace import toy_trace
from adaeagle.trace.trace import Trace

K = 2


def _small(seed: int) -> tuple[Trace, torch.Tensor, torch.Tensor]:
    """Two texts of four and three positions, made-up chances and costs."""
    generator = torch.Generator().manual_seed(seed)
    trace = Trace(toy_trace([[0, 0, 0, 0], [0, 0, 0]]), 50)
    size = len(trace.positions)
    chances = torch.rand(size, K, generator=generator, dtype=torch.float64)
    steps = torch.rand(K + 1, size, generator=generator, dtype=torch.float64)
    return trace, chances, 0.2 + steps.cumsum(0)


def _slow(
    here: int, end: int, lengths: tuple[int, ...], chances: torch.Tensor, seconds: torch.Tensor
) -> float:
    """Expected seconds from a position on, by following every fall of the coins."""
    if here >= end:
        return 0.0
    length, total, alive = lengths[here], float(seconds[lengths[here], here]), 1.0
    for accepted in range(length + 1):
        is_last = accepted == length
        chance = 1.0 if is_last else 1 - float(chances[here, accepted])
        total += alive * chance * _slow(here + accepted + 1, end, lengths, chances, seconds)
        if not is_last:
            alive *= float(chances[here, accepted])
    return total


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_best_of_all_rules(seed: int) -> None:
    trace, chances, seconds = _small(seed)
    found = best_expected(chances, seconds, trace.positions)
    for start, end in ((0, 4), (4, 7)):
        rules = [
            (0,) * start + own + (0,) * (7 - end)
            for own in product(range(K + 1), repeat=end - start)
        ]
        slow = [_slow(start, end, rule, chances, seconds) for rule in rules]
        assert float(found.seconds[start]) == pytest.approx(min(slow))
        for rule, expected in zip(rules[::7], slow[::7], strict=True):
            own = expected_of(torch.tensor(rule), chances, seconds, trace.positions)
            assert float(own.seconds[start]) == pytest.approx(expected)
            assert own.seconds[start] >= found.seconds[start] - 1e-12


def test_its_rate_is_that_of_many_sampled_texts() -> None:
    trace, chances, seconds = _small(5)
    found = best_expected(chances, seconds, trace.positions)
    generator = torch.Generator().manual_seed(1)
    total, num_texts = 0.0, 20_000
    coins = torch.rand(num_texts, 7, K, generator=generator) < chances
    lengths = found.lengths.tolist()
    accepted = [
        coins[:, q, : lengths[q]].long().cumprod(1).sum(1).tolist() for q in range(len(lengths))
    ]
    for text in range(num_texts):
        for start, end in ((0, 4), (4, 7)):
            here = start
            while here < end:
                total += float(seconds[lengths[here], here])
                here += accepted[here][text] + 1
    assert 7 * num_texts / total == pytest.approx(expected_rate(found, trace.positions), rel=0.01)


def test_chances_are_the_overlap_of_the_distributions() -> None:
    """With all tokens on record the bounds meet; with some of them they hold it."""
    [text] = toy_trace([[2, 1, 0, 0]], k_max=2, num_ranks=10)
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(5, 50, generator=generator).mul(4).softmax(1)
    text.envelope.log_probs[:] = text.envelope.log_probs.log_softmax(1)  # nothing beside the ranks
    for num_top in (50, 6):
        top = target.topk(num_top, dim=1)
        own = replace(text, top_token_ids=top.indices, top_log_probs=top.values.log())
        trace = Trace([own], 50)
        low, high = acceptance_chances(trace, 1)
        for position in range(4):
            root = int(trace.envelope.roots[position])
            draft = torch.zeros(50)
            draft[trace.envelope.token_ids[root]] = trace.envelope.log_probs[root].exp()
            exact = float(torch.minimum(draft, target[position + 1]).sum())
            assert low[position, 0] - 1e-6 <= exact <= high[position, 0] + 1e-6
            if num_top == 50:
                assert float(low[position, 0]) == pytest.approx(exact, abs=1e-6)
                assert float(high[position, 0]) == pytest.approx(exact, abs=1e-6)
