"""Recorded texts under another drafter: its rounds are those that it runs live."""

from collections.abc import Callable, Sequence

import pytest

from adaeagle import Target, generate, get_policy
from adaeagle.data.prompts import Prompt
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.ngram import NgramDrafter
from adaeagle.drafters.recycling import RecyclingDrafter
from adaeagle.drafters.suffix import SuffixDrafter
from adaeagle.replay.replay import replay, texts_of
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.redrafted import RedraftedTrace
from adaeagle.trace.text import RecordedText

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
@pytest.mark.parametrize("kind", ["ngram", "ngram and score", "suffix", "recorded"])
def test_rounds_are_the_live_ones(
    kind: str,
    spec: str,
    pair: tuple[Target, Drafter],
    prompts: Sequence[list[int]],
    texts: list[RecordedText],
) -> None:
    target, recorded = pair
    drafters = {"ngram": NgramDrafter(), "suffix": SuffixDrafter(), "recorded": recorded}
    name, _, has_rule = kind.partition(" and ")
    drafter = drafters[name]
    if has_rule:
        spec = "eagle2(depth=3, width=2, stop=score(least=2))"
    trace = RedraftedTrace(texts, target.vocab_size, drafter)
    played = texts_of(replay(get_policy(spec), trace), trace)
    total = 0
    for prompt_ids, rounds in zip(prompts, played, strict=True):
        live = generate(target, drafter, spec, prompt_ids, max_new_tokens=LENGTH).rounds
        assert rounds.num_drafted.tolist() == [r.num_drafted for r in live]
        assert rounds.num_verified.tolist() == [r.num_verified for r in live]
        assert rounds.num_emitted.tolist() == [r.num_emitted for r in live]
        total += sum(r.num_accepted for r in live)
    assert total > 0


def test_what_cannot_be_replayed_is_refused(texts: list[RecordedText]) -> None:
    with pytest.raises(ValueError, match="recycling cannot be replayed: its drafts depend on more"):
        RedraftedTrace(texts, 96, RecyclingDrafter())


def test_what_cannot_be_recorded_is_refused(pair: tuple[Target, Drafter]) -> None:
    with pytest.raises(ValueError, match="recycling cannot be recorded: its drafts depend on more"):
        Recorder(pair[0], RecyclingDrafter())
