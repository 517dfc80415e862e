"""Recorded texts under another drafter: its rounds are those that it runs live."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adaeagle import Budget, DraftTree, Policy, Target, generate, get_policy
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Prompt
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.merged import MergedDrafter
from adaeagle.drafters.ngram import NgramDrafter
from adaeagle.drafters.recycling import RecyclingDrafter
from adaeagle.drafters.suffix import Score, SuffixDrafter
from adaeagle.policy import Context
from adaeagle.replay.replay import replay, texts_of
from adaeagle.replay.rounds import Rounds
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.redrafted import RedraftedTrace
from adaeagle.trace.text import RecordedText
from adaeagle.tree import Level

MakePair = Callable[..., tuple[Target, Drafter]]
LENGTH = 40


@pytest.fixture(scope="module")
def pair(make_pair: MakePair) -> tuple[Target, Drafter]:
    return make_pair("model")


@pytest.fixture(scope="module")
def prompts(make_prompt: Callable[[int, int], list[int]]) -> list[list[int]]:
    return [make_prompt(size, seed) * 2 for seed, size in enumerate((5, 9, 3))]


@pytest.fixture(scope="module")
def texts(pair: tuple[Target, Drafter], prompts: Sequence[list[int]]) -> list[RecordedText]:
    recorder = Recorder(*pair, ("chain(length=2)",), LENGTH)
    return [
        recorder.record(Prompt(id=str(number), token_ids=tuple(ids)))[0]
        for number, ids in enumerate(prompts)
    ]


@pytest.mark.parametrize(
    "spec",
    [
        "chain(length=6)",
        "eagle2(depth=4, width=3, nodes=8)",
        "static_tree",
        "chain(length=8, stop=hf_heuristic)",
    ],
)
@pytest.mark.parametrize("kind", ["ngram", "ngram and score", "suffix", "recorded", "merged"])
def test_rounds_are_the_live_ones(
    kind: str,
    spec: str,
    pair: tuple[Target, Drafter],
    prompts: Sequence[list[int]],
    texts: list[RecordedText],
) -> None:
    target, recorded = pair
    drafters = {
        "ngram": NgramDrafter(),
        "suffix": SuffixDrafter(),
        "recorded": recorded,
        "merged": MergedDrafter(target, recorded, SuffixDrafter()),
    }
    name, _, has_rule = kind.partition(" and ")
    drafter = drafters[name]
    if has_rule:
        spec = "eagle2(depth=3, width=2, stop=score(least=2))"
    trace = RedraftedTrace(texts, target.vocab_size, drafter, lambda: recorded)
    assert_live(get_policy(spec), trace, target, drafter, prompts)


def assert_live(
    policy: Policy,
    trace: RedraftedTrace,
    target: Target,
    drafter: Drafter,
    prompts: Sequence[list[int]],
) -> list[Rounds]:
    """Replays a policy, and holds its rounds against the live ones."""
    played = list(texts_of(replay(policy, trace), trace))
    total = 0
    for prompt_ids, rounds in zip(prompts, played, strict=True):
        live = generate(target, drafter, policy, prompt_ids, max_new_tokens=LENGTH).rounds
        assert rounds.depth.tolist() == [r.depth for r in live]
        assert (rounds.widths > 0).sum(1).tolist() == [r.draft_forwards for r in live]
        assert rounds.num_drafted.tolist() == [r.num_drafted for r in live]
        assert rounds.num_verified.tolist() == [r.num_verified for r in live]
        assert rounds.num_emitted.tolist() == [r.num_emitted for r in live]
        total += sum(r.num_accepted for r in live)
    assert total > 0
    return played


class Careful(Policy):
    """A beam of which the network drafts where the look-up is not sure alone."""

    def plan(self, context: Context) -> Budget:
        return Budget(depth=5, width=2)

    def runs_network(self, tree: DraftTree, rows: Tensor, found: Level) -> Tensor:
        assert found.num_children is not None
        assert found.scores is not None
        return (found.num_children == 0) | (found.scores[..., 0] < 1)


@pytest.mark.parametrize("score", ["chance", "length"])
@pytest.mark.parametrize(
    "spec", ["marginal_tree(speedup=0.5, cost='mini')", "by_match_length(chain(length=3), least=1)"]
)
def test_rules_for_merged_drafters(
    spec: str,
    score: Score,
    pair: tuple[Target, Drafter],
    prompts: Sequence[list[int]],
    texts: list[RecordedText],
) -> None:
    target, recorded = pair
    drafter = MergedDrafter(target, recorded, SuffixDrafter(score=score))
    trace = RedraftedTrace(texts, target.vocab_size, drafter, lambda: recorded)
    assert_live(get_policy(spec), trace, target, drafter, prompts)


def test_a_network_that_is_run_now_and_then(
    pair: tuple[Target, Drafter], prompts: Sequence[list[int]], texts: list[RecordedText]
) -> None:
    target, recorded = pair
    drafter = MergedDrafter(target, recorded, SuffixDrafter())
    trace = RedraftedTrace(texts, target.vocab_size, drafter, lambda: recorded)
    played = Rounds.join(assert_live(Careful(), trace, target, drafter, prompts))
    num_forwards = (played.widths > 0).sum(1)
    assert (num_forwards < played.depth).any()
    assert (num_forwards == played.depth).any()
    assert torch.equal(played.num_lookups > 0, played.depth > 0)


def test_levels_that_are_looked_up_have_their_cost(
    pair: tuple[Target, Drafter], texts: list[RecordedText]
) -> None:
    target, recorded = pair
    cost = replace(CostModel.linear(constant=0.0, draft=1.0, verify=0.0), lookup=0.01)
    for drafter, each in (
        (SuffixDrafter(), 0.0),
        (MergedDrafter(target, recorded, SuffixDrafter()), 1.0),
    ):
        trace = RedraftedTrace(texts, target.vocab_size, drafter, lambda: recorded)
        rounds = replay(get_policy("chain(length=3)"), trace).rounds
        seconds = cost.round_seconds(rounds.shapes(trace.positions))
        most = (trace.positions.remaining[rounds.rows] - 1).clamp(max=3)
        levels = torch.minimum(rounds.depth + 1, most)
        torch.testing.assert_close(seconds, (each * rounds.depth + 0.01 * levels).double())


def test_what_cannot_be_replayed_is_refused(texts: list[RecordedText]) -> None:
    with pytest.raises(ValueError, match="recycling cannot be replayed: its drafts depend on more"):
        RedraftedTrace(texts, 96, RecyclingDrafter())


def test_what_cannot_be_recorded_is_refused(pair: tuple[Target, Drafter]) -> None:
    with pytest.raises(ValueError, match="recycling cannot be recorded: its drafts depend on more"):
        Recorder(pair[0], RecyclingDrafter())
    for drafter in (NgramDrafter(), MergedDrafter(None, pair[1], NgramDrafter())):
        with pytest.raises(ValueError, match="needs no record: what is looked up in a text"):
            Recorder(pair[0], drafter)
