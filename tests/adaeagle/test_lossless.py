"""At temperature 0 in float32 every policy's text is plain decoding's, token for token."""

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from inspect import signature

import pytest

from adaeagle import Generation, Target, generate
from adaeagle.drafters.base import Drafter
from adaeagle.registry import POLICIES as POLICY_GROUP

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]
PlainText = Callable[..., list[int]]
CheckText = Callable[[Target, Sequence[int], list[int], list[int]], None]

KINDS = ("model", "eagle")
FAMILIES = ("llama", "qwen2", "qwen3")

# A spec, and most nodes and draft forwards of its rounds.
POLICIES = {
    "vanilla": (0, 0),
    "chain(length=1)": (1, 1),
    "chain(length=4)": (4, 4),
    "chain(length=9)": (9, 9),
    "chain(stop=confidence(threshold=0.15), length=6)": (6, 6),
    "confidence(threshold=0.1)": (12, 12),
    "static_tree": (25, 5),
    # The second child has the only grandchild: the official look-up reads such trees wrongly.
    "static_tree([[0], [1], [2], [0, 0], [1, 0], [1, 1], [1, 0, 0]])": (7, 3),
    "static_tree('eagle1', stop=confidence(threshold=0.05))": (25, 5),
    "eagle2(depth=5, width=1, nodes=5)": (5, 5),
    "eagle2(depth=2, width=4, nodes=20)": (20, 2),
    "eagle2(depth=4, width=4, nodes=11)": (11, 4),
    "eagle2(depth=6, width=10, nodes=59)": (59, 6),
    "eagle2(depth=5, width=6, nodes=24, stop=confidence(threshold=0.05))": (24, 5),
}
# The other rules, on chains and trees; what they decide is tested beside them.
RULES = {
    "static_tree('medusa_63')": (63, 4),
    "opt_tree(nodes=20, threshold=0.05, depth=6, width=5)": (20, 6),
    "talon(nodes=20, mu=0.05, depth=8, width=5)": (20, 8),
    "marginal_tree(speedup=0.3, depth=6, width=3)": (59, 6),
    "talon(nodes=3, mu=0.0, width=5, stop=confidence(threshold=0.05))": (3, 12),
    "static_tree('eagle1', stop=entropy(threshold=1.5))": (25, 5),
    "chain(stop=cumulative(log_threshold=-4.0))": (12, 12),
    "eagle2(depth=5, width=4, nodes=14, stop=cumulative(log_threshold=-4.0))": (14, 5),
    "eagle2(depth=6, width=4, nodes=14, stop=beam_total(log_threshold=-1.0, depths=[2, 4]))": (
        14,
        6,
    ),
    "chain(stop=entropy(threshold=1.5))": (12, 12),
    "chain(stop=adaedl(threshold=0.3))": (12, 12),
    "eagle2(depth=5, width=4, nodes=14, stop=adaedl(threshold=0.3))": (14, 5),
    "hf_heuristic(start=3)": (12, 12),
    "hf_dynamic": (12, 12),
    "all_of(confidence(threshold=0.2), hf_heuristic)": (12, 12),
    "eagle2(depth=5, width=4, nodes=14, stop=any_of(confidence(threshold=0.1), hf_heuristic))": (
        14,
        5,
    ),
    "ucb(chain(length=3), static_tree, hf_dynamic, vanilla)": (25, 12),
    "thompson(confidence(threshold=0.2), eagle2(depth=5, width=4, nodes=14))": (14, 12),
}
PROMPTS = ((11, 3), (1, 5))  # (length, seed)
LENGTH = 40


def check_counts(out: Generation, nodes: int, depth: int) -> None:
    """The distributions every record keeps."""
    assert len(out.token_ids) == 1 + sum(r.num_emitted for r in out.rounds)
    for record in out.rounds:
        assert 0 <= record.depth <= depth
        assert record.num_verified <= min(record.num_drafted, nodes)
        assert record.num_accepted <= record.depth
        assert record.num_accepted <= record.num_verified
    for record in out.rounds[:-1]:
        assert record.num_emitted == record.num_accepted + 1
    last = out.rounds[-1]
    assert last.num_accepted <= last.num_emitted <= last.num_accepted + 1


@pytest.mark.parametrize("spec", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_text_is_plain_decoding(
    kind: str,
    family: str,
    spec: str,
    make_pair: MakePair,
    make_prompt: MakePrompt,
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    target, drafter = make_pair(kind, family)
    for length, seed in PROMPTS:
        prompt = make_prompt(length, seed)
        out = generate(target, drafter, spec, prompt, max_new_tokens=LENGTH)
        check_text(target, prompt, out.token_ids, plain_text(target, prompt, LENGTH))
        check_counts(out, *POLICIES[spec])


@pytest.mark.parametrize("spec", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_s_text_is_plain_decoding(
    kind: str,
    spec: str,
    make_pair: MakePair,
    make_prompt: MakePrompt,
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    target, drafter = make_pair(kind)
    prompt = make_prompt(8, 0)
    out = generate(target, drafter, spec, prompt, max_new_tokens=LENGTH)
    check_text(target, prompt, out.token_ids, plain_text(target, prompt, LENGTH))
    check_counts(out, *RULES[spec])


def test_no_registered_policy_is_left_out() -> None:
    """Those that hold a predictor are tried in `tests/policies/test_predicting.py`, those that read
    scores of look-ups in `tests/policies/test_score.py`."""
    ours = {
        entry.name
        for entry in entry_points(group=POLICY_GROUP)
        if entry.value.startswith("policies.")
        and "predictor" not in signature(entry.load()).parameters
        and not entry.load().needs.scores
        # Of texts side by side: `tests/policies/test_batch_rules.py`.
        and getattr(entry.load(), "scope", "row") == "row"
    }
    tried = " ".join([*POLICIES, *RULES])
    assert {name for name in ours if name not in tried} == set()


@pytest.mark.parametrize("spec", ["chain(length=4)", "static_tree", "eagle2(depth=4, width=4)"])
@pytest.mark.parametrize("kind", KINDS)
def test_eager_attention(
    kind: str,
    spec: str,
    make_pair: MakePair,
    make_prompt: MakePrompt,
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    target, drafter = make_pair(kind, "llama", "eager")
    prompt = make_prompt(9, 1)
    out = generate(target, drafter, spec, prompt, max_new_tokens=LENGTH)
    check_text(target, prompt, out.token_ids, plain_text(target, prompt, LENGTH))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_drafts_are_accepted(
    kind: str, family: str, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    """What makes the tests above test acceptance and compaction: two tokens a round and more."""
    target, drafter = make_pair(kind, family)
    chains: list[int] = []
    trees: list[int] = []
    said: set[int] = set()
    for seed in range(3):
        prompt = make_prompt(8, seed)
        for spec, found in (("chain(length=6)", chains), ("eagle2", trees)):
            out = generate(target, drafter, spec, prompt, max_new_tokens=48)
            said.update(out.token_ids)
            found += [record.num_accepted for record in out.rounds[:-1]]
    assert sum(chains) / len(chains) >= 2
    assert sum(trees) / len(trees) >= 2
    assert min(chains) < 6
    assert len(said) > 20
