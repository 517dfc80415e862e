"""Families by drafters by policies: texts are plain decoding's, two and more accepted a round."""

from collections.abc import Callable, Sequence
from functools import cache
from inspect import signature

import pytest
import torch

from adaeagle import EagleDrafter, ModelDrafter, Target, generate, registry
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig

MakeReader = Callable[[str, bool], EagleDrafter]
MakeNoisyDrafter = Callable[[Target, float], ModelDrafter]
MakePrompt = Callable[[int, int], list[int]]
PlainText = Callable[..., list[int]]
CheckText = Callable[[Target, Sequence[int], list[int], list[int]], None]

FAMILIES = ("llama", "mistral", "phi3", "qwen2", "qwen3", "gpt_neox", "opt", "gpt2", "gemma2")
DRAFTERS = ("eagle", "eagle3", "model")
POLICIES = ("chain(length=4)", "static_tree", "eagle2(depth=5, width=4, nodes=14)")
EVERY_POLICY = (
    *POLICIES,
    "vanilla",
    "static_tree('medusa_63')",
    "confidence(threshold=0.3)",
    "chain(stop=cumulative(log_threshold=-1.0), length=8)",
    "eagle2(depth=6, width=4, nodes=20, stop=beam_total(depths=None))",
    "chain(stop=entropy, length=8)",
    "chain(stop=adaedl, length=8)",
    "hf_heuristic",
    "hf_dynamic",
    "opt_tree(nodes=20)",
    "talon(nodes=20)",
    "marginal_tree(speedup=0.1)",
    "eagle2(depth=5, stop=all_of(confidence(threshold=0.3), entropy))",
    "static_tree(stop=any_of(confidence(threshold=0.1), cumulative(log_threshold=-3.0)))",
    "ucb(chain(length=3), static_tree)",
    "thompson(hf_heuristic, eagle2(depth=3, width=3, nodes=8))",
)
LENGTH = 30


@cache
def last_token_head(target: Target) -> EagleDrafter:
    """An EAGLE-1/2 head that knows as much of the next token as the last one decides.

    Its input layer passes the embedding on and its only layer adds nothing.
    """
    size = target.hidden_size
    head = EagleHead(
        EagleHeadConfig(
            hidden_size=size,
            intermediate_size=size,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_hidden_layers=1,
            vocab_size=target.vocab_size,
            rms_norm_eps=1e-5,
            hidden_act="silu",
            rope_theta=10000.0,
            fc_bias=False,
            qkv_bias=False,
        )
    )
    with torch.no_grad():
        scale = target.embed(torch.arange(target.vocab_size)).pow(2).mean().sqrt()
        head.fc.weight.copy_(torch.cat((torch.eye(size) / scale, torch.zeros(size, size)), dim=1))
        for name, weight in head.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
    return EagleDrafter(head, target)


@pytest.fixture
def make_drafter(
    make_reader: MakeReader, make_noisy_drafter: MakeNoisyDrafter
) -> Callable[[str, str], tuple[Target, Drafter]]:
    def make(family: str, kind: str) -> tuple[Target, Drafter]:
        reader = make_reader(family, True)
        if kind == "eagle3":
            return reader.target, reader
        if kind == "eagle":
            return reader.target, last_token_head(reader.target)
        return reader.target, make_noisy_drafter(reader.target, 0.01)

    return make


MakeDrafter = Callable[[str, str], tuple[Target, Drafter]]


def check(
    policies: Sequence[str],
    pair: tuple[Target, Drafter],
    make_prompt: MakePrompt,
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    target, drafter = pair
    accepted: list[int] = []
    for seed, policy in enumerate(policies):
        prompt = make_prompt(7, seed % 3)
        out = generate(target, drafter, policy, prompt, max_new_tokens=LENGTH)
        check_text(target, prompt, out.token_ids, plain_text(target, prompt, LENGTH))
        if policy in POLICIES:  # a rule that stops early accepts less, and should
            accepted += [record.num_accepted for record in out.rounds[:-1]]
    assert sum(accepted) / len(accepted) >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_eagle_heads(
    family: str,
    make_drafter: MakeDrafter,
    make_prompt: MakePrompt,
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    check(POLICIES, make_drafter(family, "eagle"), make_prompt, plain_text, check_text)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAFTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_policy(
    family: str,
    kind: str,
    make_drafter: MakeDrafter,
    make_prompt: MakePrompt,
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    check(EVERY_POLICY, make_drafter(family, kind), make_prompt, plain_text, check_text)


def test_every_policy_is_among_them() -> None:
    """Those that hold a predictor are tried in `tests/policies/test_predicting.py`."""
    ours = [
        name
        for name in registry.names()
        if "predictor" not in signature(registry.lookup(name)).parameters
        # Of look-ups alone: `tests/policies/test_score.py` and `test_merged_rules.py`.
        and name not in ("score", "by_match_length")
        # Of texts side by side: `tests/policies/test_batch_rules.py`.
        and getattr(registry.lookup(name), "scope", "row") == "row"
    ]
    assert [name for name in ours if name not in " ".join(EVERY_POLICY)] == []
