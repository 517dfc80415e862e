"""At temperature 0 in float32 every policy's text is plain decoding's, token for token."""

from collections.abc import Callable, Sequence

import pytest

from adaeagle import Generation, Target, generate
from adaeagle.drafters.base import Drafter

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
PROMPTS = ((11, 3), (1, 5))  # (length, seed)
LENGTH = 40


def check_counts(out: Generation, nodes: int, depth: int) -> None:
    """The laws every record keeps."""
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
