"""The generation config's processors: texts are what `transformers` says by the same config."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from adaeagle import DraftTree, ModelDrafter, Target, generate
from adaeagle.models.processors import build, process_paths
from adaeagle.tree import Level

MakeModel = Callable[..., Any]
MakeNoisyDrafter = Callable[[Target, float], ModelDrafter]

PROMPT = [17, 4, 80, 33, 4, 51]
LENGTH = 20
POLICIES = ("vanilla", "chain(length=4)", "static_tree", "eagle2(depth=4, width=4, nodes=14)")


@pytest.fixture(scope="module")
def pair(
    make_model: MakeModel, make_noisy_drafter: MakeNoisyDrafter
) -> tuple[Target, ModelDrafter]:
    target = Target(copy.deepcopy(make_model("llama")))
    return target, make_noisy_drafter(target, 0.01)


def config_of(**settings: Any) -> GenerationConfig:
    return GenerationConfig(**settings)  # type: ignore[no-untyped-call]


def with_settings(target: Target, **settings: Any) -> Target:
    """The same model, which says its text by another generation config."""
    changed = copy.copy(target)
    changed.model = copy.copy(target.model)
    changed.model.generation_config = config_of(**settings)
    return changed


def plain_text(
    target: Target, prompt: Sequence[int], stops: Sequence[int], length: int = LENGTH
) -> list[int]:
    ids = torch.tensor([list(prompt)])
    said = target.model.generate(  # type: ignore[operator]
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=length,
        eos_token_id=list(stops) or None,
        pad_token_id=0,
    )
    return said[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


# Settings made of the tokens of the text without them: the change that each makes is seen.
Settings = Callable[[list[int]], dict[str, Any]]
SETTINGS: dict[str, Settings] = {
    "repetition_penalty": lambda text: {"repetition_penalty": 1.3},
    "no_repeat_ngram_size": lambda text: {"no_repeat_ngram_size": 1},
    "bad_words_ids": lambda text: {"bad_words_ids": [[text[3]], [text[6], text[7]]]},
    "sequence_bias": lambda text: {"sequence_bias": [[[text[2]], -4.0], [[text[4], 9], 3.0]]},
    "suppress_tokens": lambda text: {"suppress_tokens": [text[1], text[5]]},
    "begin_suppress_tokens": lambda text: {"begin_suppress_tokens": [text[0]]},
    "forced_eos_token_id": lambda text: {"forced_eos_token_id": 95},
    "several": lambda text: {
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [text[4]],
        "remove_invalid_values": True,
        "renormalize_logits": True,
    },
}
ABOUT_THE_END: dict[str, Settings] = {
    "min_length": lambda text: {"min_length": len(PROMPT) + 10},
    "min_new_tokens": lambda text: {"min_new_tokens": 9},
    "exponential_decay_length_penalty": lambda text: {"exponential_decay_length_penalty": (2, 1.4)},
}


def check(target: Target, drafter: ModelDrafter, prompt: list[int], stops: list[int]) -> int:
    """Every policy's text is that of `transformers`; returns how many drafts were accepted."""
    expected = plain_text(target, prompt, stops)
    num_accepted = 0
    for policy in POLICIES:
        out = generate(target, drafter, policy, prompt, max_new_tokens=LENGTH, stop_token_ids=stops)
        assert out.token_ids == expected, policy
        num_accepted += sum(record.num_accepted for record in out.rounds)
    return num_accepted


@pytest.mark.parametrize("name", SETTINGS)
def test_texts_of_every_policy(name: str, pair: tuple[Target, ModelDrafter]) -> None:
    target, drafter = pair
    free = plain_text(target, PROMPT, [])
    changed = with_settings(target, **SETTINGS[name](free))
    assert plain_text(changed, PROMPT, []) != free
    assert check(changed, drafter, PROMPT, []) >= 15


@pytest.mark.parametrize("name", ABOUT_THE_END)
def test_settings_about_the_end(name: str, pair: tuple[Target, ModelDrafter]) -> None:
    target, drafter = pair
    free = plain_text(target, PROMPT, [])
    stops = [free[4], free[12]] if name.startswith("min") else [95, 94]
    changed = with_settings(target, **ABOUT_THE_END[name](free))
    assert plain_text(changed, PROMPT, stops) != plain_text(target, PROMPT, stops)
    check(changed, drafter, PROMPT, stops)
    # Without an end there is nothing to say about it.
    out = generate(changed, drafter, "chain", PROMPT, max_new_tokens=LENGTH, stop_token_ids=[])
    assert out.token_ids == free


def test_forced_first_token(pair: tuple[Target, ModelDrafter]) -> None:
    target, drafter = pair
    changed = with_settings(target, forced_bos_token_id=77, begin_suppress_tokens=[5])
    assert plain_text(changed, [3], [])[0] == 77
    check(changed, drafter, [3], [])


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_sampled_text_is_processed_too(policy: str, pair: tuple[Target, ModelDrafter]) -> None:
    target, drafter = pair
    changed = with_settings(target, no_repeat_ngram_size=1, suppress_tokens=[8, 9])
    for mode in ("rejection", "coupled"):
        for seed in range(2):
            out = generate(
                changed,
                drafter,
                policy,
                PROMPT,
                max_new_tokens=30,
                temperature=1.5,
                sampling=mode,
                seed=seed,
            )
            said = PROMPT + out.token_ids
            assert len(set(said)) == len(said) - 1  # the prompt holds one token twice
            assert not {8, 9} & set(out.token_ids)


def test_each_row_sees_its_own_path() -> None:
    tree = DraftTree.empty(1, "cpu")
    for parents, tokens in (([-1], [[5, 6]]), ([0, 1], [[7, 5], [5, 8]]), ([3], [[9]])):
        ids = torch.tensor([tokens])
        tree = tree.grow(Level(torch.tensor([parents]), ids, torch.zeros(ids.shape)))
    paths = [[], [5], [6], [5, 7], [5, 5], [6, 5], [6, 8], [5, 5, 9]]
    logits = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(0))
    one = RepetitionPenaltyLogitsProcessor(2.0)
    found = process_paths(LogitsProcessorList([one]), logits, [1, 2], tree)
    for row, path in enumerate(paths):
        before = torch.tensor([[1, 2, *path]])
        expected = one(before, logits[:, row].clone())
        torch.testing.assert_close(found[:, row], expected, rtol=0, atol=0)


def test_nothing_configured_costs_nothing() -> None:
    neutral = config_of(repetition_penalty=1.0, no_repeat_ngram_size=0, min_length=0)
    for config in (None, config_of(), neutral):
        assert not build(config, 5, 20, frozenset({1}), torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder_repetition_penalty", 1.2),
        ("encoder_no_repeat_ngram_size", 3),
        ("guidance_scale", 1.5),
        ("watermarking_config", {"greenlist_ratio": 0.3}),
    ],
)
def test_refused_by_name(name: str, value: Any, pair: tuple[Target, ModelDrafter]) -> None:
    target = with_settings(pair[0], **{name: value})
    with pytest.raises(NotImplementedError, match=f"^{name} of the generation config must be"):
        generate(target, None, "vanilla", PROMPT)


@pytest.mark.parametrize("name", ["min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"])
def test_refused_when_sampled(name: str, pair: tuple[Target, ModelDrafter]) -> None:
    """`transformers` warps with these where it samples alone."""
    target = with_settings(pair[0], **{name: 0.2})
    out = generate(target, None, "vanilla", PROMPT, max_new_tokens=5)
    assert out.token_ids == plain_text(pair[0], PROMPT, [], 5)
    with pytest.raises(NotImplementedError, match=f"^{name} of the generation config must be"):
        generate(target, None, "vanilla", PROMPT, temperature=1.0)


def test_arguments_rule_over_a_configs_sampling(pair: tuple[Target, ModelDrafter]) -> None:
    """Temperature, top-k and top-p are arguments: a config that samples does not make us sample."""
    target, drafter = pair
    sampler = with_settings(target, do_sample=True, temperature=0.6, top_k=20, top_p=0.9)
    out = generate(sampler, drafter, "chain", PROMPT, max_new_tokens=LENGTH)
    assert out.token_ids == plain_text(target, PROMPT, [])
