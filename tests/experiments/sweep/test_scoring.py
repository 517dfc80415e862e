"""Policies scored block by block are scored as on the whole trace."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from adaeagle import get_policy
from adaeagle.bench.replayed import arm_records
from adaeagle.cost.model import CostModel
from adaeagle.replay.replay import replay
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_trace
from adaeagle.trace.trace import Trace
from experiments.sweep.scoring import BLOCK, Scorer
from policies import Chain

COST = CostModel.linear(constant=1.0, draft=2.0, verify=10.0, node=0.5, prefill=0.1)
MakeTrace = Callable[..., Trace]


def test_blocks_hold_every_prompt_once_and_are_alike(make_trace: MakeTrace) -> None:
    scorer = Scorer(make_trace(num_texts=3 * BLOCK + 2), COST)
    assert len(scorer.blocks) == 3
    found = [prompt_id for block in scorer.blocks for prompt_id in block.prompt_ids]
    assert sorted(found) == sorted(scorer.prompt_ids)
    means = []
    for block in scorer.blocks:
        texts = [scorer.trace.texts[row] for row in block.texts.tolist()]
        assert sorted(text.prompt_id for text in texts) == sorted(block.prompt_ids)
        means.append(sum(text.num_positions for text in texts) / len(texts))
    assert max(means) - min(means) <= 1


def test_few_prompts_are_one_block(make_trace: MakeTrace) -> None:
    [block] = Scorer(make_trace(num_texts=3), COST).blocks
    assert block.texts.tolist() == [0, 1, 2]


def test_texts_that_end_at_once_make_no_block_of_their_own() -> None:
    """Most answers are one token long: nothing was drafted anywhere in them."""
    lengths = [[2, 1], *[[] for _ in range(3 * BLOCK)]]
    scorer = Scorer(Trace(toy_trace(lengths), VOCAB_SIZE), COST)
    [block] = scorer.blocks
    assert len(block.prompt_ids) == 3 * BLOCK + 1
    score = scorer.whole_score(Chain(2), 0.0)
    assert score.num_tokens == 3 + 3 * BLOCK
    assert len(score.seconds) == 3 * BLOCK + 1


@pytest.mark.parametrize(
    "spec",
    ["vanilla", "chain(length=4)", "eagle2(depth=3, width=3, nodes=6)", "hf_heuristic(start=2)"],
)
def test_block_by_block_is_as_on_all(spec: str, make_trace: MakeTrace) -> None:
    trace = make_trace(num_texts=2 * BLOCK)
    scorer = Scorer(trace, COST)
    score = scorer.whole_score(get_policy(spec), 0.0)
    records = arm_records(replay(get_policy(spec), trace, COST), trace, COST, 0.0)
    assert score.seconds == pytest.approx({name: r.seconds for name, r in records.items()})
    assert score.num_tokens == sum(record.num_tokens for record in records.values())
    assert score.num_verified == sum(sum(record.num_verified) for record in records.values())
    assert score.num_drafts == sum(sum(record.depth) for record in records.values())
    assert score.num_rounds == sum(len(record.depth) for record in records.values())
    assert score.tokens_per_second == pytest.approx(score.num_tokens / sum(score.seconds.values()))


def test_deciding_is_charged_for_each_time_it_is_asked(make_trace: MakeTrace) -> None:
    scorer = Scorer(make_trace(accepted=2), COST)
    policy = Chain(2)
    free, charged = scorer.whole_score(policy, 0.0), scorer.whole_score(policy, 0.25)
    asked = charged.num_rounds + charged.num_drafts
    assert charged.total_seconds - free.total_seconds == pytest.approx(0.25 * asked)


def test_deciding_is_measured_for_each_time_it_is_asked(
    make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds of five forwards in which hooks took six times as long as in one without any."""
    scorer = Scorer(make_trace(accepted=9), COST)
    depths = replay(Chain(5), scorer.trace).rounds.depth[:12]
    assert depths.min() < 5  # the end of a text
    spent = 0.125 * (1 + depths).double()
    spent[-1] = 99.0  # the machine was busy
    monkeypatch.setattr("experiments.sweep.scoring.time_hooks", lambda *_: spent)
    assert scorer.decision_seconds(Chain(5)) == pytest.approx(0.125)


def test_a_policy_that_learns_is_scored_at_once(make_trace: MakeTrace) -> None:
    scorer = Scorer(make_trace(num_texts=2 * BLOCK), COST)
    assert len(list(scorer.score(get_policy("hf_heuristic"), 0.0))) == 1
    assert len(list(scorer.score(get_policy("chain"), 0.0))) == 2


def test_nodes_a_token(make_trace: MakeTrace) -> None:
    """Chains of three of which all are accepted: three nodes for four tokens."""
    score = Scorer(make_trace(accepted=9, num_texts=2), COST).whole_score(Chain(3), 0.0)
    assert score.verified_per_token == pytest.approx(3 / 4, rel=0.1)


def test_prompts_of_several_turns_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[Any] = toy_trace([[1] * 5, [1] * 9, [1] * 7])
    object.__setattr__(texts[2], "prompt_id", "0")
    scorer = Scorer(Trace(texts, VOCAB_SIZE), COST)
    monkeypatch.setattr("experiments.sweep.scoring.BLOCK", 1)
    first, second = scorer._cut()
    assert (first.texts.tolist(), second.texts.tolist()) == ([0, 2], [1])
    score = scorer.whole_score(Chain(1), 0.0)
    assert list(score.seconds) == ["0", "1"]
    assert torch.tensor(list(score.seconds.values())).gt(0).all()
