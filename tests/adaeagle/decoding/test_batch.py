"""Texts side by side are what each is alone, whatever runs beside them."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle import Generation, Target, generate, generate_batch, get_policy, stream_batch
from adaeagle.drafters import session
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.causal_lm import ModelSession
from adaeagle.drafters.eagle import EagleSession
from adaeagle.models import kv_cache
from adaeagle.models import target as target_module
from adaeagle.models.kv_cache import BUCKET, KVCache

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]
PlainText = Callable[..., list[int]]
CheckText = Callable[[Target, Sequence[int], list[int], list[int]], None]

POLICIES = (
    "vanilla",
    "chain(length=4)",
    "confidence(threshold=0.15)",
    "static_tree",
    "eagle2(depth=4, width=4, nodes=11)",
    "eagle2(depth=5, width=6, nodes=24, stop=confidence(threshold=0.05))",
    "talon(nodes=20, mu=0.05, depth=8, width=5)",
    "hf_heuristic(start=3)",  # learns, so that its texts wait for each other
    "ucb(chain(length=3), static_tree, vanilla)",
    "batch_slots(length=5, total=7)",
    "batch_select(eagle2(depth=4, width=4, nodes=11), total=12, floor=1.2)",
    "goodput(length=5)",
)
LENGTHS = (11, 1, 5, 30, 3, 17, 2)  # of prompts: seven texts, three at a time
LIMITS = (20, 33, 1, 9, 40, 2, 26)


@pytest.fixture(scope="module")
def prompts(make_prompt: MakePrompt) -> list[list[int]]:
    return [make_prompt(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("spec", POLICIES)
@pytest.mark.parametrize("kind", ["model", "eagle"])
def test_each_text_is_plain_decoding(
    kind: str,
    spec: str,
    family: str,
    make_pair: MakePair,
    prompts: list[list[int]],
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    target, drafter = make_pair(kind, family)
    outs = generate_batch(target, drafter, spec, prompts, max_batch=3, max_new_tokens=LIMITS)
    for prompt, limit, out in zip(prompts, LIMITS, outs, strict=True):
        check_text(target, prompt, out.token_ids, plain_text(target, prompt, limit))
        assert len(out.token_ids) == 1 + sum(r.num_emitted for r in out.rounds)
    if spec.startswith(("chain", "static", "eagle2")):
        rounds = [record for out in outs for record in out.rounds]
        assert sum(r.num_accepted for r in rounds) >= len(rounds)


@pytest.mark.parametrize("max_batch", [1, 2, 7, 20])
def test_any_number_of_places(
    max_batch: int,
    make_pair: MakePair,
    prompts: list[list[int]],
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    target, drafter = make_pair("eagle")
    outs = generate_batch(
        target,
        drafter,
        "eagle2(depth=4, width=4, nodes=11)",
        prompts,
        max_batch=max_batch,
        max_new_tokens=24,
    )
    for prompt, out in zip(prompts, outs, strict=True):
        check_text(target, prompt, out.token_ids, plain_text(target, prompt, 24))


def test_texts_end_at_their_own_stop_tokens(
    make_pair: MakePair, prompts: list[list[int]], plain_text: PlainText
) -> None:
    target, drafter = make_pair("model")
    said = Counter(token for prompt in prompts for token in plain_text(target, prompt, 30)[3:])
    stops = [token for token, _ in said.most_common(4)]
    outs = generate_batch(
        target,
        drafter,
        "chain(length=5)",
        prompts,
        max_batch=3,
        max_new_tokens=30,
        stop_token_ids=stops,
    )
    lengths = {len(out.token_ids) for out in outs}
    assert len(lengths) > 2
    for prompt, out in zip(prompts, outs, strict=True):
        assert out.token_ids == plain_text(target, prompt, 30, eos=stops)


@pytest.mark.parametrize("sampling", ["rejection", "coupled"])
@pytest.mark.parametrize(
    "spec",
    [
        "vanilla",
        "chain(length=4)",
        "chain(length=5, stop=confidence(threshold=0.3))",
        "static_tree",
        "eagle2(depth=4, width=4, nodes=11)",
    ],
)
@pytest.mark.parametrize("kind", ["model", "eagle"])
def test_a_seed_decides_each_sampled_text(
    kind: str, spec: str, sampling: Any, make_pair: MakePair, prompts: list[list[int]]
) -> None:
    target, drafter = make_pair(kind)
    how: dict[str, Any] = {"temperature": 0.8, "sampling": sampling}
    seeds = [4, 9, 4, 0, 1, 2, 3]
    outs = generate_batch(
        target, drafter, spec, prompts, max_batch=3, max_new_tokens=LIMITS, seed=seeds, **how
    )
    for prompt, limit, seed, out in zip(prompts, LIMITS, seeds, outs, strict=True):
        alone = generate(target, drafter, spec, prompt, max_new_tokens=limit, seed=seed, **how)
        assert out.token_ids == alone.token_ids
        assert _counts(out) == _counts(alone)


def _counts(out: Generation) -> list[tuple[int, int]]:
    return [(record.num_accepted, record.num_emitted) for record in out.rounds]


@pytest.mark.parametrize("spec", ["vanilla", "chain(length=4)"])
def test_a_mask_that_shows_other_texts_slots_is_caught(
    spec: str,
    make_pair: MakePair,
    prompts: list[list[int]],
    plain_text: PlainText,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: shorter texts attend to what lies between them and the forward."""
    real = kv_cache.attention_mask

    def leaking(lengths: Sequence[int], own: Tensor, start: int, dtype: torch.dtype) -> Tensor:
        return real([start] * len(lengths), own, start, dtype)

    monkeypatch.setattr(target_module, "attention_mask", leaking)
    monkeypatch.setattr(session, "attention_mask", leaking)
    target, drafter = make_pair("eagle")
    outs = generate_batch(target, drafter, spec, prompts, max_batch=3, max_new_tokens=24)
    assert any(
        out.token_ids != plain_text(target, prompt, 24)
        for prompt, out in zip(prompts, outs, strict=True)
    )


def test_waiting_texts_enter_one_at_a_time(make_pair: MakePair, make_prompt: MakePrompt) -> None:
    """Where a text goes on, no more than one prompt is run between two of its rounds."""
    target, drafter = make_pair("model")
    prompts = [make_prompt(4, seed) for seed in range(6)]
    pieces = list(
        stream_batch(
            target,
            drafter,
            "chain(length=2)",
            prompts,
            max_batch=3,
            max_new_tokens=[40, 2, 2, 2, 2, 2],
        )
    )
    own_rounds = [place for place, (number, piece) in enumerate(pieces) if number == 0]
    for start, end in pairwise(own_rounds[1:]):
        prefills = [piece for _, piece in pieces[start:end] if piece.round is None]
        assert len(prefills) <= 1
    began = [number for number, piece in pieces if piece.round is None]
    assert began == list(range(6))


@pytest.mark.parametrize("kind", ["model", "eagle"])
def test_caches_hold_the_longest_text_and_a_bucket(
    kind: str, make_pair: MakePair, make_prompt: MakePrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many texts have passed through their rows, and the first of them the shortest."""
    target, drafter = make_pair(kind)
    caches: list[KVCache] = []
    begin = KVCache.__init__

    def noted(self: KVCache, layers: Any, capacity: int, batch_size: int = 1) -> None:
        begin(self, layers, capacity, batch_size)
        if batch_size > 1:
            caches.append(self)

    monkeypatch.setattr(KVCache, "__init__", noted)
    prompts = [make_prompt(5 + 9 * (number % 7), number) for number in range(20)]
    limits = [4 + 11 * (number % 5) for number in range(20)]
    nodes = 15  # of a round, the root's among them
    for _ in stream_batch(
        target,
        drafter,
        "eagle2(depth=4, width=4, nodes=11)",
        prompts,
        max_batch=3,
        max_new_tokens=limits,
    ):
        longest = max(len(ids) + limit for ids, limit in zip(prompts, limits, strict=True))
        assert all(cache.capacity <= longest + 4 * nodes + BUCKET for cache in caches)
        assert all(max(cache.lengths) <= longest for cache in caches)
    assert len(caches) == 2


@pytest.mark.parametrize("kind", ["model", "eagle"])
def test_a_newcomers_prompt_pads_nobody(
    kind: str, make_pair: MakePair, make_prompt: MakePrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft network reads the prompt of a text that begins in a forward of that text alone."""
    target, drafter = make_pair(kind)
    session_of = ModelSession if kind == "model" else EagleSession
    shapes: list[tuple[int, ...]] = []
    run = session_of.run

    def noted(self: Any, token_ids: Tensor, *others: Any) -> Tensor:
        shapes.append(tuple(token_ids.shape))
        return run(self, token_ids, *others)

    monkeypatch.setattr(session_of, "run", noted)
    prompts = [make_prompt(40, seed) for seed in range(5)]
    limits = [30, 6, 14, 9, 20]
    generate_batch(target, drafter, "chain(length=2)", prompts, max_batch=3, max_new_tokens=limits)
    assert sum(rows for texts, rows in shapes if rows > 10) >= 5 * 39
    assert all(texts == 1 for texts, rows in shapes if rows > 10)
    assert any(texts == 3 for texts, _ in shapes)


def test_what_is_learned_across_texts_is_learned_one_after_another(
    make_pair: MakePair, prompts: list[list[int]]
) -> None:
    target, drafter = make_pair("model")
    spec = "hf_heuristic(start=3, across_texts=True)"
    outs = generate_batch(target, drafter, spec, prompts, max_batch=3, max_new_tokens=LIMITS)
    policy = get_policy(spec)
    for prompt, limit, out in zip(prompts, LIMITS, outs, strict=True):
        alone = generate(target, drafter, policy, prompt, max_new_tokens=limit)
        assert [r.depth for r in out.rounds] == [r.depth for r in alone.rounds]


def test_arguments_are_one_or_one_a_prompt(make_pair: MakePair) -> None:
    target, drafter = make_pair("model")
    with pytest.raises(ValueError, match=r"max_new_tokens must be one number or 2, .* got 3"):
        generate_batch(target, drafter, "chain", [[1], [2]], max_new_tokens=[1, 2, 3])
    with pytest.raises(ValueError, match="max_batch must be >= 1, got 0"):
        generate_batch(target, drafter, "chain", [[1], [2]], max_batch=0)
    assert generate_batch(target, drafter, "chain", []) == []
