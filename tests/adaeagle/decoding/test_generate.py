"""Where a text ends, what is counted, what is refused, and streams beside each other."""

import copy
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import pytest
import torch

from adaeagle import Budget, Context, Generation, Outcome, Policy, Target, generate, stream
from adaeagle.drafters.base import Drafter

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]
PlainText = Callable[..., list[int]]
CheckText = Callable[[Target, Sequence[int], list[int], list[int]], None]

POLICIES = (
    "vanilla",
    "chain(length=5)",
    "chain(length=5, stop=confidence(threshold=0.2))",
    "static_tree",
    "eagle2(depth=4, width=4, nodes=16)",
)
LENGTH = 24


def check_limits(out: Generation, limit: int) -> None:
    """A round of depth d emits up to d + 1: none is drafted deeper than what may be emitted."""
    left = limit - 1
    for record in out.rounds:
        assert record.depth <= left - 1
        assert record.num_accepted <= record.num_emitted <= left
        left -= record.num_emitted
    assert left == limit - len(out.token_ids) >= 0


@pytest.mark.parametrize("spec", POLICIES)
@pytest.mark.parametrize("kind", ["model", "eagle"])
def test_max_new_tokens(
    kind: str, spec: str, make_pair: MakePair, make_prompt: MakePrompt, plain_text: PlainText
) -> None:
    target, drafter = make_pair(kind)
    prompt = make_prompt(7, 0)
    expected = plain_text(target, prompt, LENGTH)
    for limit in (1, 2, 3, 4, 5, 6, 8, 11):
        out = generate(target, drafter, spec, prompt, max_new_tokens=limit)
        assert out.token_ids == expected[:limit]
        check_limits(out, limit)


@pytest.mark.parametrize("spec", POLICIES)
@pytest.mark.parametrize("kind", ["model", "eagle"])
def test_context_limits_prompt_and_text(
    kind: str, spec: str, make_pair: MakePair, make_prompt: MakePrompt, plain_text: PlainText
) -> None:
    target, drafter = make_pair(kind)
    prompt = make_prompt(7, 0)
    short = Target(target.model, max_length=24)
    out = generate(short, drafter, spec, prompt, max_new_tokens=LENGTH)
    assert out.token_ids == plain_text(target, prompt, LENGTH)[: 24 - 7]
    check_limits(out, 24 - 7)
    with pytest.raises(ValueError, match="shorter than the context of 24 tokens, got 24"):
        generate(short, drafter, spec, make_prompt(24, 0))


@pytest.mark.parametrize("spec", POLICIES)
@pytest.mark.parametrize("kind", ["model", "eagle"])
def test_stop_tokens(
    kind: str, spec: str, make_pair: MakePair, make_prompt: MakePrompt, plain_text: PlainText
) -> None:
    """A text ends with the first stop token, wherever in a round it comes.

    Each token of the text is the end once, so ends fall on the prefill's token, inside accepted
    paths and on bonus tokens.
    """
    target, drafter = make_pair(kind)
    prompt = make_prompt(7, 0)
    free = plain_text(target, prompt, LENGTH)
    for end in dict.fromkeys(free):
        out = generate(
            target, drafter, spec, prompt, max_new_tokens=LENGTH, stop_token_ids=[end, 95]
        )
        assert out.token_ids == plain_text(target, prompt, LENGTH, eos=[end, 95])
        assert out.token_ids == free[: free.index(end) + 1]
        assert len(out.token_ids) == 1 + sum(r.num_emitted for r in out.rounds)
        for record in out.rounds:
            assert record.num_accepted <= record.num_emitted


def test_stop_token_inside_an_accepted_path(
    make_pair: MakePair, make_prompt: MakePrompt, plain_text: PlainText
) -> None:
    """What was accepted beyond the end is neither emitted nor counted."""
    target, drafter = make_pair("model")
    prompt = make_prompt(7, 0)
    text = plain_text(target, prompt, LENGTH)
    free = generate(target, drafter, "chain(length=5)", prompt, max_new_tokens=LENGTH)
    inside = 0
    for place in range(1, LENGTH):
        if text.index(text[place]) < place:
            continue
        out = generate(
            target,
            drafter,
            "chain(length=5)",
            prompt,
            max_new_tokens=LENGTH,
            stop_token_ids=[text[place]],
        )
        whole, cut = free.rounds[len(out.rounds) - 1], out.rounds[-1]
        inside += cut.num_emitted < whole.num_emitted
        assert cut.num_accepted == min(whole.num_accepted, cut.num_emitted)
    assert inside >= 3


@pytest.mark.parametrize("eos", [5, [5, 9]])
def test_models_own_eos(
    eos: int | list[int], make_pair: MakePair, make_prompt: MakePrompt, plain_text: PlainText
) -> None:
    shared, drafter = make_pair("model")
    prompt = make_prompt(7, 0)
    free = plain_text(shared, prompt, LENGTH)
    ends = [free[9]] if isinstance(eos, int) else [free[15], free[9]]
    model = copy.deepcopy(shared.model)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = ends[0] if isinstance(eos, int) else ends
    target = Target(model)
    first = min(free.index(end) for end in ends)
    out = generate(target, drafter, "eagle2(depth=4, width=4)", prompt, max_new_tokens=LENGTH)
    assert out.token_ids == free[: first + 1]
    never = generate(
        target, drafter, "chain(length=4)", prompt, max_new_tokens=LENGTH, stop_token_ids=[]
    )
    assert never.token_ids == free


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("spec", POLICIES)
def test_stream_is_generate(
    spec: str, temperature: float, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    target, drafter = make_pair("eagle")
    arguments: dict[str, Any] = {"max_new_tokens": LENGTH, "temperature": temperature, "seed": 3}
    whole = generate(target, drafter, spec, make_prompt(7, 0), **arguments)
    pieces = list(stream(target, drafter, spec, make_prompt(7, 0), **arguments))
    assert [token for piece in pieces for token in piece.token_ids] == whole.token_ids
    assert pieces[0].round is None
    assert len(pieces[0].token_ids) == 1
    for piece, record in zip(pieces[1:], whole.rounds, strict=True):
        assert piece.round is not None
        assert len(piece.token_ids) == piece.round.num_emitted == record.num_emitted


@pytest.mark.parametrize("kind", ["model", "eagle"])
def test_streams_take_turns(kind: str, make_pair: MakePair, make_prompt: MakePrompt) -> None:
    """Two texts of different length on one target and drafter; the first ends long before."""
    target, drafter = make_pair(kind)
    prompts = (make_prompt(7, 0), make_prompt(13, 1))
    limits = (9, LENGTH)
    alone = [
        generate(target, drafter, "static_tree", prompt, max_new_tokens=limit).token_ids
        for prompt, limit in zip(prompts, limits, strict=True)
    ]
    streams = [
        stream(target, drafter, "static_tree", prompt, max_new_tokens=limit)
        for prompt, limit in zip(prompts, limits, strict=True)
    ]
    texts: list[list[int]] = [[], []]
    for pieces in zip_longest(*streams):
        # Between two pieces the reader may train: its own autograd mode holds.
        assert not torch.is_inference_mode_enabled()
        for text, piece in zip(texts, pieces, strict=True):
            text += piece.token_ids if piece else []
    assert texts == alone


def test_seconds_add_up(make_pair: MakePair, make_prompt: MakePrompt) -> None:
    target, drafter = make_pair("model")
    out = generate(target, drafter, "chain(length=4)", make_prompt(7, 0), max_new_tokens=LENGTH)
    assert out.prefill_seconds > 0
    assert out.seconds == pytest.approx(out.prefill_seconds + sum(r.seconds for r in out.rounds))
    for record in out.rounds:
        parts = (
            record.draft_seconds,
            record.verify_seconds,
            record.policy_seconds,
            record.other_seconds,
        )
        assert record.seconds == pytest.approx(sum(parts))
        assert min(parts) >= 0
        assert record.verify_seconds > 0
        assert len(record.draft_forward_seconds) == record.depth
        assert sum(record.draft_forward_seconds) == pytest.approx(record.draft_seconds)


class Recorder(Policy):
    """A chain that learns: it keeps what it was shown."""

    learns = True

    def __init__(self, depths: Sequence[int]) -> None:
        self.depths = depths
        self.contexts: list[Context] = []
        self.outcomes: list[Outcome] = []
        self.recents: list[list[list[int]]] = []

    def plan(self, context: Context) -> Budget:
        assert context.recent is not None
        self.contexts.append(context)
        self.recents.append(context.recent(30))
        return Budget(depth=self.depths[context.round % len(self.depths)])

    def observe(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def test_what_a_policy_is_told(make_pair: MakePair, make_prompt: MakePrompt) -> None:
    """Context and outcome agree with the text, also where some rounds draft nothing."""
    target, drafter = make_pair("eagle")
    prompt = make_prompt(7, 0)
    policy = Recorder([3, 0, 0, 5])
    out = generate(target, drafter, policy, prompt, max_new_tokens=LENGTH)
    text = [*prompt, *out.token_ids]
    place = len(prompt)  # of the pending token
    features = target.model.base_model(torch.tensor([text])).last_hidden_state
    for number, (context, outcome, record) in enumerate(
        zip(policy.contexts, policy.outcomes, out.rounds, strict=True)
    ):
        assert context.round == number
        assert context.num_tokens.tolist() == [place + 1]
        assert context.remaining.tolist() == [len(prompt) + LENGTH - place - 1]
        assert context.token_ids.tolist() == [text[place]]
        assert context.last_token_ids.tolist() == [text[place - 1]]
        assert policy.recents[number] == [text[: place + 1][-30:]]
        assert outcome.num_emitted.tolist() == [record.num_emitted]
        assert outcome.depth.tolist() == [record.depth]
        assert outcome.accepted.sum(1).tolist() == outcome.num_accepted.tolist()
        # A chain tests every token up to the first that falls.
        assert outcome.tested.sum(1).tolist() == [min(record.num_accepted + 1, record.depth)]
        assert (
            outcome.tree.token_ids[0, : record.num_accepted].tolist()
            == (text[place + 1 : place + 1 + record.num_accepted])
        )
        assert context.features is not None
        torch.testing.assert_close(context.features, features[:, place - 1], atol=1e-4, rtol=1e-4)
        place += record.num_emitted
    # Rounds without a draft leave the drafter behind, and it catches up.
    steady = generate(target, drafter, "chain(length=3)", prompt, max_new_tokens=LENGTH)
    assert out.token_ids == steady.token_ids
    assert sum(r.num_accepted for r in out.rounds) > len(out.rounds) / 4


class Picky(Policy):
    """Draws three tokens and would verify one."""

    proposal = "draw"

    def plan(self, context: Context) -> Budget:
        return Budget(depth=3, nodes=1)


def test_a_drawn_token_is_verified(make_pair: MakePair, make_prompt: MakePrompt) -> None:
    """`select` has no say where children were drawn: dropping one would change the distribution."""
    target, drafter = make_pair("model")
    for temperature, num_verified in ((0.0, 1), (1.0, 3)):
        out = generate(
            target,
            drafter,
            Picky(),
            make_prompt(7, 0),
            max_new_tokens=LENGTH,
            temperature=temperature,
        )
        assert all(r.num_verified == num_verified for r in out.rounds if r.depth == 3)
        assert any(r.depth == 3 for r in out.rounds)


def test_no_drafter(make_pair: MakePair, make_prompt: MakePrompt, plain_text: PlainText) -> None:
    target, _ = make_pair("model")
    prompt = make_prompt(7, 0)
    out = generate(target, None, "vanilla", prompt, max_new_tokens=LENGTH)
    assert out.token_ids == plain_text(target, prompt, LENGTH)
    with pytest.raises(ValueError, match="Chain drafts: it needs a drafter, got None"):
        generate(target, None, "chain", prompt)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1, got 0"),
        ({"prompt_ids": []}, "prompt_ids must hold at least one token, got none"),
        ({"prompt_ids": [1, 96]}, r"prompt_ids must be in 0\.\.95, got 96"),
        ({"prompt_ids": [-1, 3]}, r"prompt_ids must be in 0\.\.95, got -1"),
        ({"temperature": -0.5}, "temperature must be >= 0, got -0.5"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_k": -1}, "top_k must be >= 0, got -1"),
        ({"sampling": "typical"}, "sampling must be one of .*, got 'typical'"),
        ({"policy": "chian"}, "did you mean 'chain'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str, make_pair: MakePair) -> None:
    target, drafter = make_pair("model")
    known: dict[str, Any] = {"policy": "chain", "prompt_ids": [1, 2]}
    with pytest.raises(ValueError, match=message):
        generate(target, drafter, **{**known, **arguments})


def test_processors_that_are_not_applied_are_refused(make_pair: MakePair) -> None:
    shared, drafter = make_pair("model")
    model = copy.deepcopy(shared.model)
    assert model.generation_config is not None
    model.generation_config.encoder_repetition_penalty = 1.3
    with pytest.raises(NotImplementedError, match=r"encoder_repetition_penalty .* got 1\.3"):
        generate(Target(model), drafter, "chain", [1, 2])


@pytest.mark.parametrize("spec", ["chain(length=4)", "chain(length=4, proposal='top_k')", "eagle2"])
def test_a_seed_decides_a_sampled_text(
    spec: str, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    target, drafter = make_pair("model")
    texts = [
        generate(
            target,
            drafter,
            spec,
            make_prompt(7, 0),
            max_new_tokens=LENGTH,
            temperature=1,
            seed=seed,
        ).token_ids
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]
