"""Draft sessions: trees are chains side by side, and every round goes on from the true text."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from adaeagle import Target
from adaeagle.drafters.base import Drafter, DraftSession
from adaeagle.drafters.node_mask import NodeMask

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
    return session.catch_up(torch.tensor([text[old:new]]), features[:, old - 1 : new - 1])


def extend(session: DraftSession, tokens: list[int], origins: list[int]) -> Tensor:
    return session.extend(torch.tensor([tokens]), torch.tensor([origins]))


@pytest.mark.parametrize(("kind", "family"), PAIRS)
@torch.inference_mode()
def test_a_tree_is_chains_side_by_side(
    kind: str, family: str, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    target, drafter = make_pair(kind, family)
    text = make_prompt(7, 0)
    features = features_of(target, text)
    session = drafter.begin(text, 4)
    rows = [catch_up(session, text, features, 1, 7)[0]]
    for tokens, origins in LEVELS:
        rows.append(extend(session, tokens, origins)[0])
    found = torch.cat(rows)
    # Draft row 0 is the root's; then each run node has one, in order.
    paths: list[list[int]] = [[]]
    for tokens, origins in LEVELS:
        paths += [[*paths[origin], token] for token, origin in zip(tokens, origins, strict=True)]
    for row, path in enumerate(paths):
        alone = drafter.begin(text, 4)
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
    session = drafter.begin(text, 4)
    places = (1, 5, 6, 9, 13, 16)
    for old, new in pairwise(places):
        found = catch_up(session, text, features, old, new)
        fresh = catch_up(drafter.begin(text, 4), text, features, 1, new)
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
    session = drafter.begin(text, 4)
    found = [catch_up(session, text, features, 1, 8)]
    if kind == "model":
        found += [extend(session, [text[8 + place]], [place]) for place in range(3)]
    for place, logits in enumerate(found):
        fresh = catch_up(drafter.begin(text, 4), text, features, 1, 8 + place)
        torch.testing.assert_close(logits, fresh, atol=1e-4, rtol=1e-4)


def test_node_mask() -> None:
    """Every node sees the text, its own path and itself."""
    nodes = NodeMask()
    first = nodes.extend(torch.tensor([[0, 0]]), 3)
    assert first is not None
    assert first[0, 0].int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]
    second = nodes.extend(torch.tensor([[2, 1, 2]]), 3)
    assert second is not None
    assert second[0, 0].int().tolist() == [
        [1, 1, 1, 0, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0, 1, 0],
        [1, 1, 1, 0, 1, 0, 0, 1],
    ]
    nodes.reset()
    assert nodes.extend(torch.tensor([[0]]), 5) is None  # a chain sees all before it
    assert nodes.extend(torch.tensor([[1]]), 5) is None
    forked = nodes.extend(torch.tensor([[2, 2]]), 5)  # which may still become a tree
    assert forked is not None
    assert forked[0, 0, :, 5:].int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 1]]
