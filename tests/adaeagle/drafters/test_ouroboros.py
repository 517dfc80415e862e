"""Ouroboros: the draft LM's own text, the phrases behind it, and what the target makes of both."""

from collections.abc import Callable

import pytest
import torch

from adaeagle import Target, generate
from adaeagle.drafters.base import Candidates, Drafter, Proposal, Verified
from adaeagle.drafters.causal_lm import ModelDrafter
from adaeagle.drafters.ouroboros import OuroborosDrafter, trie
from adaeagle.drafters.suffix import SuffixDrafter
from adaeagle.testing import DrafterContract
from adaeagle.testing.contracts import tiny_pair
from adaeagle.tree import DraftTree, Level

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]


def own_drafter(pair: tuple[Target, Drafter], **arguments: int) -> OuroborosDrafter:
    target, model = pair
    assert isinstance(model, ModelDrafter)
    return OuroborosDrafter(target, model, **arguments)


def only(proposal: Proposal) -> list[int]:
    """The children of the only node."""
    found = proposal.candidates
    assert isinstance(found, Candidates)
    return found.token_ids[0, 0, : int(found.num_children)].tolist()


def decided(text: list[int]) -> tuple[torch.Tensor, None, list[int]]:
    return torch.tensor([text]), None, [len(text)]


@torch.inference_mode()
def test_a_chain_is_the_greedy_text_of_the_draft_lm(
    make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    """Also after the text has left it, and with fewer forwards than tokens."""
    pair = make_pair("model")
    drafter = own_drafter(pair, length=12, window=5, ngram=4)
    text = make_prompt(9, 0)
    session = drafter.begin([text], 99)
    num_forwards = num_tokens = 0
    num_new = len(text) - 1
    for step in range(6):
        expected = generate(drafter.model, None, "vanilla", text, max_new_tokens=12).token_ids
        proposal = session.catch_up(*decided(text[-num_new:]))
        chain = list[int]()
        while len(chain) < 12:
            num_forwards += proposal.num_forwards
            chain += only(proposal)
            proposal = session.extend(torch.tensor([[chain[-1]]]), torch.tensor([[len(chain) - 1]]))
        assert chain == expected
        num_tokens += 12
        # Some of it is accepted, then comes another token, or all of it and one more.
        taken = chain[: 3 * step]
        text = [*text, *taken, (chain[-1] + step) % 96]
        num_new = len(taken) + 1
    assert num_forwards < num_tokens


@torch.inference_mode()
def test_phrases_lengthen_the_chain_and_come_from_what_the_target_says() -> None:
    drafter = own_drafter(tiny_pair(32, 16), length=2, suffixes=2, window=2, ngram=3)
    session = drafter.begin([[1, 2, 3]], 99)
    first = only(session.catch_up(*decided([2, 3])))
    [second] = only(session.extend(torch.tensor([first]), torch.tensor([[0]])))
    # The target: after the root 9, after 9 21, after 21 22; the draft was rejected at once.
    tree = DraftTree.empty(1, "cpu")
    for row, token_ids in ((-1, [9, second]), (0, [21, 5])):
        ids = torch.tensor([[token_ids]])
        tree = tree.grow(Level(torch.tensor([[row]]), ids, torch.zeros(ids.shape)))
    logits = torch.zeros(1, 5, 32)
    for row, token_id in enumerate([7, 21, 30, 22, 8]):
        logits[0, row, token_id] = 1.0
    session.verified(Verified(tree, [[]], logits))
    session.catch_up(*decided([first[0]]))  # as was drafted: the chain goes on
    text = session._texts[0]
    assert text.pool.latest(9, 5) == [(21, 22)]
    assert all(phrase != (22, 8) for phrase in text.pool.latest(21, 5))  # shorter than a phrase
    text.pool.add(second, (11, 12))
    text.pool.add(second, (11, 13))
    proposal = session.extend(torch.tensor([[second]]), torch.tensor([[0]]))
    [third] = only(proposal)
    text.pool.add(third, (14, 15))
    text.pool.add(third, (14, 16))
    assert only(session.extend(torch.tensor([[third]]), torch.tensor([[1]]))) == [14]
    assert only(session.extend(torch.tensor([[14]]), torch.tensor([[2]]))) == [16, 15]


def test_phrases_share_what_they_begin_with() -> None:
    assert trie([(1, 2), (1, 3), (4, 2)]) == ([1, 2, 3, 4, 2], [-1, 0, 0, -1, 3])


def test_texts_are_the_targets_own(make_pair: MakePair, make_prompt: MakePrompt) -> None:
    pair = make_pair("model")
    prompt = make_prompt(7, 0)
    out = generate(
        pair[0], own_drafter(pair), "eagle2(depth=10, width=3)", prompt, max_new_tokens=50
    )
    plain = generate(pair[0], None, "vanilla", prompt, max_new_tokens=50)
    assert out.token_ids == plain.token_ids
    assert any(r.depth > 6 for r in out.rounds)
    assert any(r.draft_forwards < min(r.depth, 6) for r in out.rounds)
    assert sum(r.num_accepted for r in out.rounds) > len(out.rounds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"length": 0}, "length must be >= 1"), ({"suffixes": -1}, "suffixes must be >= 0, got -1")],
)
def test_what_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        own_drafter(tiny_pair(32, 16), **arguments)
    with pytest.raises(ValueError, match="draft_lm must be a draft LM such as"):
        OuroborosDrafter(None, SuffixDrafter())  # type: ignore[arg-type]


class TestOuroboros(DrafterContract):
    @pytest.fixture
    def drafter(self, target: Target) -> Drafter:
        return own_drafter(tiny_pair(32, 16), length=3, window=3, ngram=3)
