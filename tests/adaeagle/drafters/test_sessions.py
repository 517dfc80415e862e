"""Draft sessions: trees are chains side by side, and every round goes on from the true text."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle import ModelDrafter, Target, generate
from adaeagle.drafters.base import Drafter, DraftSession
from adaeagle.drafters.session import NodePaths

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]

PAIRS = [("model", "llama"), ("model", "qwen3"), ("eagle", "llama"), ("eagle", "qwen2")]

# A draft of three levels: tokens, and the draft row each was proposed from.
LEVELS = (([5, 6, 7], [0, 0, 0]), ([8, 9], [1, 3]), ([1, 2, 3], [4, 5, 5]))


def features_of(target: Target, text: Sequence[int]) -> Tensor:
    """The last layer's, [1, T, D]."""
    return target.model.base_model(torch.tensor([list(text)])).last_hidden_state  # type: ignore[no-any-return]


def catch_up(
    session: DraftSession, text: list[int], features: Tensor, old: int, new: int
) -> Tensor:
    """Takes in tokens `old` to `new` of the text, each with the feature before it."""
    found = session.catch_up(
        torch.tensor([text[old:new]]), features[:, old - 1 : new - 1], [new - old]
    )
    assert found.logits is not None
    return found.logits


def extend(session: DraftSession, tokens: list[int], origins: list[int]) -> Tensor:
    found = session.extend(torch.tensor([tokens]), torch.tensor([origins]))
    assert found.logits is not None
    return found.logits


@pytest.mark.parametrize(("kind", "family"), PAIRS)
@torch.inference_mode()
def test_a_tree_is_chains_side_by_side(
    kind: str, family: str, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    target, drafter = make_pair(kind, family)
    text = make_prompt(7, 0)
    features = features_of(target, text)
    session = drafter.begin([text], 4)
    rows = [catch_up(session, text, features, 1, 7)[0]]
    for tokens, origins in LEVELS:
        rows.append(extend(session, tokens, origins)[0])
    found = torch.cat(rows)
    # Draft row 0 is the root's; then each run node has one, in order.
    paths: list[list[int]] = [[]]
    for tokens, origins in LEVELS:
        paths += [[*paths[origin], token] for token, origin in zip(tokens, origins, strict=True)]
    for row, path in enumerate(paths):
        alone = drafter.begin([text], 4)
        expected = catch_up(alone, text, features, 1, 7)
        for place, token in enumerate(path):
            expected = extend(alone, [token], [place])
        torch.testing.assert_close(found[row], expected[0, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "family"), PAIRS)
@torch.inference_mode()
def test_every_round_goes_on_from_the_true_text(
    kind: str, family: str, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    """After rounds of drafting a session says what one that never drafted says.

    What was drafted, accepted or not, must leave no trace: its keys and values came from predicted
    features, or from rejected tokens.
    """
    target, drafter = make_pair(kind, family)
    text = make_prompt(16, 0)
    features = features_of(target, text)
    session = drafter.begin([text], 4)
    places = (1, 5, 6, 9, 13, 16)
    for old, new in pairwise(places):
        found = catch_up(session, text, features, old, new)
        fresh = catch_up(drafter.begin([text], 4), text, features, 1, new)
        torch.testing.assert_close(found, fresh, atol=1e-4, rtol=1e-4)
        # Drafts of the very tokens that will be committed, and of others.
        if new < 13:
            extend(session, [text[new], 3], [0, 0])
            extend(session, [text[new + 1], 4, 5], [1, 1, 2])


@pytest.mark.parametrize("kind", ["model", "eagle"])
@torch.inference_mode()
def test_a_chain_of_the_model_s_own_text(
    kind: str, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    """What follows a drafted chain is what follows the same text once it is committed.

    Of an EAGLE head only where its features are the target's own: at the root.
    """
    target, drafter = make_pair(kind)
    text = make_prompt(12, 0)
    features = features_of(target, text)
    session = drafter.begin([text], 4)
    found = [catch_up(session, text, features, 1, 8)]
    if kind == "model":
        found += [extend(session, [text[8 + place]], [place]) for place in range(3)]
    for place, logits in enumerate(found):
        fresh = catch_up(drafter.begin([text], 4), text, features, 1, 8 + place)
        torch.testing.assert_close(logits, fresh, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "family"), PAIRS)
@torch.inference_mode()
def test_texts_side_by_side_are_texts_alone(
    kind: str, family: str, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    """Of other lengths, with other numbers of tokens to catch up on, and with one replaced."""
    target, drafter = make_pair(kind, family)
    texts = [make_prompt(16, 0), make_prompt(16, 1), make_prompt(16, 2)]
    every = [features_of(target, text) for text in texts]
    session = drafter.begin(texts[:2], 4)
    running, places = [0, 1], [1, 1]
    for step, counts in enumerate(([3, 5], [2, 0], [1, 4], [6, 2])):
        if step == 2:
            running[1], places[1] = 2, 1
            session.replace(1, texts[2])
        tokens = torch.zeros(2, max(counts), dtype=torch.int64)
        features = torch.zeros(2, max(counts), every[0].shape[2])
        for row, (start, count) in enumerate(zip(places, counts, strict=True)):
            tokens[row, :count] = torch.tensor(texts[running[row]][start : start + count])
            features[row, :count] = every[running[row]][0, start - 1 : start + count - 1]
        places = [start + count for start, count in zip(places, counts, strict=True)]
        roots = session.catch_up(tokens, features, counts).logits
        nodes = session.extend(torch.tensor([[5, 6], [7, 8]]), torch.zeros(2, 2).long()).logits
        leaves = session.extend(torch.tensor([[9], [3]]), torch.tensor([[2], [1]])).logits
        assert roots is not None
        assert nodes is not None
        assert leaves is not None
        for row, path in enumerate(([6, 9], [7, 3])):
            if counts[row] == 0:
                continue  # what a text without new tokens proposes is nobody's business
            text = texts[running[row]]
            alone = drafter.begin([text], 4)
            expected = catch_up(alone, text, every[running[row]], 1, places[row])
            torch.testing.assert_close(roots[row], expected[0], atol=1e-4, rtol=1e-4)
            expected = extend(alone, path[:1], [0])
            child = 1 - row
            torch.testing.assert_close(nodes[row, child], expected[0, 0], atol=1e-4, rtol=1e-4)
            expected = extend(alone, path[1:], [1])
            torch.testing.assert_close(leaves[row, 0], expected[0, 0], atol=1e-4, rtol=1e-4)


def test_node_paths() -> None:
    """Every node sees its own path and itself."""
    nodes = NodePaths()
    depths, first = nodes.extend(torch.tensor([[-1, -1]]))
    assert depths.tolist() == [[1, 1]]
    assert first[0].int().tolist() == [[1, 0], [0, 1]]
    depths, second = nodes.extend(torch.tensor([[1, 0, 1]]))
    assert depths.tolist() == [[2, 2, 2]]
    assert second[0].int().tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]
    assert len(nodes) == 5


@pytest.mark.parametrize(("size", "other"), [(200, 202), (202, 200)])
def test_a_draft_model_padded_otherwise_drafts_what_both_have(
    size: int, other: int, make_model: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    target = Target(make_model("llama", vocab_size=size))
    small = Target(make_model("llama", vocab_size=other))
    drafter = ModelDrafter(small, target)
    assert drafter.num_common == 200
    assert (drafter.vocab_map is None) == (size == 200)
    for temperature in (0.0, 1.0):
        settings: dict[str, Any] = {
            "max_new_tokens": 20, "temperature": temperature, "sampling": "coupled",
        }  # fmt: skip
        plain = generate(target, None, "vanilla", [size - 1, 5], **settings)
        drafted = generate(target, drafter, "eagle2(depth=2, width=3)", [size - 1, 5], **settings)
        assert drafted.token_ids == plain.token_ids
    assert not caplog.records
    named = Target.from_pretrained("mini")
    ModelDrafter(named, Target.from_pretrained("mini"))
    assert not caplog.records
    assert named.tokenizer is not None
    named.tokenizer.add_tokens(["<another>"])
    ModelDrafter(named, Target.from_pretrained("mini"))
    assert "have different tokenizers" in caplog.text
