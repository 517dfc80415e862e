"""The rule on scores of look-ups, and which rules refuse which drafters."""

from collections.abc import Callable

import pytest

from adaeagle import Target, generate
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.ngram import NgramDrafter
from adaeagle.drafters.recycling import RecyclingDrafter
from adaeagle.drafters.suffix import SuffixDrafter

MakePair = Callable[..., tuple[Target, Drafter]]
LENGTH = 40


@pytest.fixture
def target(make_pair: MakePair) -> Target:
    return make_pair("model")[0]


@pytest.fixture
def prompt_ids(make_prompt: Callable[[int, int], list[int]]) -> list[int]:
    return make_prompt(6, 0) * 3


def test_drafts_are_made_where_enough_matches(target: Target, prompt_ids: list[int]) -> None:
    drafter = NgramDrafter(n_max=4)
    plain = generate(target, None, "vanilla", prompt_ids, max_new_tokens=LENGTH)
    counts = {}
    for least in (1, 3, 5):
        out = generate(target, drafter, f"score(least={least})", prompt_ids, max_new_tokens=LENGTH)
        assert out.token_ids == plain.token_ids
        counts[least] = sum(r.num_verified for r in out.rounds)
    assert counts[1] > counts[3] >= counts[5] == 0


def test_nodes_that_few_occurrences_continue_are_left_out(
    target: Target, prompt_ids: list[int]
) -> None:
    def verified(least: float) -> int:
        policy = f"eagle2(depth=3, width=4, nodes=30, stop=score(least={least}))"
        out = generate(target, SuffixDrafter(), policy, prompt_ids, max_new_tokens=LENGTH)
        return sum(r.num_verified for r in out.rounds)

    assert verified(0.0) > verified(0.5) > 0


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        ("confidence", "Confidence"),
        ("chain(stop=any_of(hf_heuristic, cumulative))", "Cumulative"),
        ("eagle2(stop=beam_total)", "BeamTotal"),
        ("entropy", "Entropy"),
        ("adaedl", "AdaEDL"),
        ("hf_dynamic", "HFDynamic"),
        ("opt_tree", "OptTree"),
        ("talon", "Talon"),
    ],
)
@pytest.mark.parametrize("drafter", [NgramDrafter(), SuffixDrafter(), RecyclingDrafter()])
def test_rules_on_probabilities_refuse_drafters_without(
    policy: str, rule: str, drafter: Drafter, target: Target
) -> None:
    message = f"{rule} reads probabilities of the draft, which {drafter.name} does not have"
    with pytest.raises(ValueError, match=message):
        generate(target, drafter, policy, [1, 2, 3], max_new_tokens=4)


def test_the_rule_on_scores_refuses_drafters_without(make_pair: MakePair) -> None:
    target, drafter = make_pair("model")
    with pytest.raises(ValueError, match="Score reads the scores of drafters that look tokens up"):
        generate(target, drafter, "score", [1, 2, 3], max_new_tokens=4)


@pytest.mark.parametrize(
    "policy",
    ["chain(length=4)", "hf_heuristic", "eagle2(depth=4, width=4, nodes=10)", "static_tree"],
)
@pytest.mark.parametrize("drafter", [NgramDrafter(), SuffixDrafter(), RecyclingDrafter()])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_other_policies_take_any_drafter(
    policy: str, drafter: Drafter, temperature: float, target: Target, prompt_ids: list[int]
) -> None:
    def text(drafter: Drafter | None, policy: str) -> list[int]:
        return generate(
            target,
            drafter,
            policy,
            prompt_ids,
            max_new_tokens=LENGTH,
            temperature=temperature,
            sampling="coupled",
        ).token_ids

    assert text(drafter, policy) == text(None, "vanilla")
