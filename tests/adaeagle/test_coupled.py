"""Coupled sampling: the seed alone decides the text, and its distribution is the target's.

The noise is held against what it must be as well: uniform, independent, the same everywhere.
"""

import math
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle import Target, generate, registry
from adaeagle.decoding.gumbel import gumbel_noise, uniform_noise
from adaeagle.decoding.sampling import Sampling
from adaeagle.drafters.base import Drafter, DraftSession, Proposal

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]

POLICIES = (
    "chain(length=4)",
    "chain(length=3, proposal='top_k')",
    "chain(length=6, stop=confidence(threshold=0.2))",
    "static_tree",
    "eagle2(depth=4, width=4, nodes=14)",
    "eagle2(depth=5, width=3, nodes=12, stop=confidence(threshold=0.1))",
)
ALL_POLICIES = (
    *POLICIES,
    "static_tree('medusa_63', proposal='top_k')",
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
    "eagle2(depth=5, stop=any_of(confidence(threshold=0.3), cumulative))",
    "ucb(chain(length=3), static_tree)",
    "thompson(hf_heuristic, eagle2(depth=3, width=3, nodes=8))",
)
DISTRIBUTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.5, "top_k": 12},
    {"temperature": 1.3, "top_p": 0.9},
)


def say(
    target: Target, drafter: Drafter | None, policy: str, prompt: Sequence[int], **distribution: Any
) -> list[int]:
    return generate(target, drafter, policy, prompt, sampling="coupled", **distribution).token_ids


def check_seed(
    target: Target, drafter: Drafter, policies: Sequence[str], prompt: list[int], seed: int
) -> None:
    """Every policy's text is vanilla's of the same seed."""
    distribution = {**DISTRIBUTIONS[seed % len(DISTRIBUTIONS)], "seed": seed, "max_new_tokens": 20}
    expected = say(target, None, "vanilla", prompt, **distribution)
    for policy in policies:
        assert say(target, drafter, policy, prompt, **distribution) == expected, policy


@pytest.mark.parametrize("kind", ["model", "eagle"])
@pytest.mark.parametrize("seed", range(3))
def test_the_seed_decides_the_text(
    kind: str, seed: int, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    target, drafter = make_pair(kind)
    check_seed(target, drafter, POLICIES, make_prompt(6, seed), seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "eagle"])
@pytest.mark.parametrize("seed", range(200))
def test_every_policy_of_200_seeds(
    kind: str, seed: int, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    target, drafter = make_pair(kind)
    check_seed(target, drafter, ALL_POLICIES, make_prompt(6, seed), seed)


def test_every_policy_is_among_them() -> None:
    """Those that hold a predictor are tried in `tests/policies/test_predicting.py`."""
    text = " ".join(ALL_POLICIES)
    ours = [
        name
        for name in registry.names()
        if "predictor" not in signature(registry.lookup(name)).parameters
        # Of look-ups alone: `tests/policies/test_score.py` and `test_merged_rules.py`.
        and name not in ("score", "by_match_length")
        # Of texts side by side: `tests/policies/test_batch_rules.py`.
        and getattr(registry.lookup(name), "scope", "row") == "row"
    ]
    assert [name for name in ours if name not in f"vanilla {text}"] == []


@pytest.mark.parametrize("policy", ["chain(length=4)", "static_tree", "eagle2(depth=4, width=4)"])
def test_drafts_are_accepted(policy: str, make_pair: MakePair, make_prompt: MakePrompt) -> None:
    """Draft and target share the noise.

    Likely tokens of a flat distribution are accepted all the same.
    """
    target, drafter = make_pair("model")
    accepted = [
        record.num_accepted
        for seed in range(6)
        for record in generate(
            target,
            drafter,
            policy,
            make_prompt(6, seed),
            max_new_tokens=24,
            temperature=1.0,
            sampling="coupled",
            seed=seed,
        ).rounds
    ]
    assert sum(accepted) / len(accepted) >= 2


def test_seeds_and_prompt_lengths_differ(make_pair: MakePair, make_prompt: MakePrompt) -> None:
    target, _ = make_pair("model")
    texts = {
        tuple(say(target, None, "vanilla", prompt, temperature=1.0, seed=seed, max_new_tokens=8))
        for seed in (0, 1, -1, 2**40)
        for prompt in (make_prompt(6, 0), make_prompt(7, 0))
    }
    assert len(texts) == 8


def test_temperature_zero_has_no_noise(make_pair: MakePair, make_prompt: MakePrompt) -> None:
    target, drafter = make_pair("model")
    prompt = make_prompt(6, 0)
    greedy = generate(target, drafter, "chain", prompt, max_new_tokens=16).token_ids
    assert say(target, drafter, "chain", prompt, max_new_tokens=16, seed=3) == greedy


class OwnVocabulary(Drafter):
    """A drafter cut down to some of its tokens, in an order of its own."""

    name = "own vocabulary"

    def __init__(self, drafter: Drafter, vocab_map: Tensor) -> None:
        self._drafter = drafter
        self.vocab_map = vocab_map

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> "OwnVocabularySession":
        assert self.vocab_map is not None
        return OwnVocabularySession(self._drafter.begin(prompts, capacity), self.vocab_map)


class OwnVocabularySession(DraftSession):
    def __init__(self, session: DraftSession, vocab_map: Tensor) -> None:
        self._session = session
        self._vocab_map = vocab_map

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        return self._cut(self._session.catch_up(token_ids, features, counts))

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        return self._cut(self._session.extend(token_ids, origins))

    def _cut(self, proposal: Proposal) -> Proposal:
        assert proposal.logits is not None
        return Proposal(proposal.logits[..., self._vocab_map])


def test_a_draft_vocabulary_of_its_own(make_pair: MakePair, make_prompt: MakePrompt) -> None:
    """Noise belongs to the target's token ids, whatever row of the draft a token has."""
    target, whole = make_pair("model")
    kept = torch.randperm(target.vocab_size, generator=torch.Generator().manual_seed(0))[:80]
    drafter = OwnVocabulary(whole, kept)
    accepted = []
    for seed in range(4):
        prompt = make_prompt(6, seed)
        distribution: dict[str, Any] = {"temperature": 1.0, "seed": seed, "max_new_tokens": 20}
        out = generate(
            target, drafter, "eagle2(depth=4)", prompt, sampling="coupled", **distribution
        )
        assert out.token_ids == say(target, None, "vanilla", prompt, **distribution)
        accepted += [record.num_accepted for record in out.rounds]
    assert sum(accepted) / len(accepted) >= 1


def chi_square(found: Tensor, expected: Tensor) -> float:
    """In standard deviations from what chance makes of it; every cell may be hit."""
    freedom = found.numel() - 1
    value = ((found - expected).square() / expected).sum()
    return float(value - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
@torch.inference_mode()
def test_the_distribution_is_the_targets(
    distribution: dict[str, Any], make_model: Callable[..., Any]
) -> None:
    """The first two tokens of 300 seeds, against their exact joint distribution."""
    vocab_size, num_seeds, prompt = 5, 300, [3, 1]
    model = make_model("llama", std=0.3, num_layers=1, hidden_size=16, vocab_size=vocab_size)
    target = Target(model)
    sampling = Sampling(**{**distribution, "top_k": min(3, distribution.get("top_k", 0))})
    distribution = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
    }
    texts = torch.tensor([[*prompt, token] for token in range(vocab_size)])
    first = sampling.log_probs(model(texts[:1, :-1]).logits[:, -1]).exp()
    second = sampling.log_probs(model(texts).logits[:, -1]).exp()
    expected = num_seeds * first.T * second
    found = torch.zeros_like(expected)
    for seed in range(num_seeds):
        one, other = say(
            target, None, "vanilla", prompt, seed=seed, max_new_tokens=2, **distribution
        )
        found[one, other] += 1
    possible = expected > 0
    assert not found[~possible].any()
    assert abs(chi_square(found[possible], expected[possible])) < 4


def test_noise_is_splitmix64() -> None:
    """The same bits as unbounded integers make of the published constants."""

    def mixed(state: int) -> int:
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        return state ^ state >> 31

    step = 0x9E3779B97F4A7C15
    for seed in (0, 1, -1, 2**63, 2**64 - 1, 123456789):
        found = uniform_noise(seed, 7, 2, 5, "cpu")
        for row, position in enumerate((7, 8)):
            key = mixed((mixed(seed % 2**64) + position * step) % 2**64)
            for token in range(5):
                bits = mixed((key + (token + 1) * step) % 2**64)
                assert float(found[row, token]) == ((bits >> 12) + 0.5) / 2**52


def test_noise_depends_on_seed_position_and_token_alone() -> None:
    whole = gumbel_noise(5, 0, 9, 40, "cpu")
    assert torch.equal(gumbel_noise(5, 3, 4, 40, "cpu"), whole[3:7])
    assert torch.equal(gumbel_noise(5, 0, 9, 30, "cpu"), whole[:, :30])
    assert torch.equal(gumbel_noise(5 + 2**64, 0, 9, 40, "cpu"), whole)
    assert whole.isfinite().all()
    assert len(set(whole.flatten().tolist())) == whole.numel()


SIZE = 1 << 17
# Values along each of the three counters.
AXES: dict[str, Callable[[], Tensor]] = {
    "tokens": lambda: uniform_noise(1, 5, 1, SIZE, "cpu")[0],
    "positions": lambda: uniform_noise(1, 0, SIZE, 1, "cpu")[:, 0],
    "seeds": lambda: torch.cat([uniform_noise(seed, 5, 1, 8, "cpu")[0] for seed in range(4096)]),
}


@pytest.mark.parametrize("axis", AXES)
def test_noise_is_uniform(axis: str) -> None:
    """High bits, low bits, and pairs of neighbours fall into cells as chance would have them."""
    values = AXES[axis]()
    lag = 8 if axis == "seeds" else 1
    low = (values * 2.0**44).frac()
    pairs = (values[:-lag] * 32).floor() * 32 + (values[lag:] * 32).floor()
    for cells, count in ((values * 1024, 1024), (low * 256, 256), (pairs, 1024)):
        found = torch.bincount(cells.long(), minlength=count).double()
        assert abs(chi_square(found, torch.full_like(found, len(cells) / count))) < 5


def test_seeds_one_bit_apart_have_nothing_in_common() -> None:
    one = uniform_noise(77, 3, 16, 256, "cpu").flatten()
    for bit in (0, 1, 31, 32, 63):
        other = uniform_noise(77 ^ 1 << bit, 3, 16, 256, "cpu").flatten()
        correlation = torch.corrcoef(torch.stack((one, other)))[0, 1]
        assert abs(float(correlation)) < 5 / math.sqrt(one.numel())


def test_gumbel_noise_draws_from_a_distribution() -> None:
    """The Gumbel-max trick, over positions: each token as often as its probability."""
    probs = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03])
    chosen = (probs.log() + gumbel_noise(0, 0, 50_000, 5, "cpu")).argmax(1)
    found = torch.bincount(chosen, minlength=5).double()
    assert abs(chi_square(found, 50_000 * probs)) < 4
