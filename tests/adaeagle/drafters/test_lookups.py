"""Drafters that copy from the text, against searches that read all of it."""

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation import candidate_generator

from adaeagle import Target, generate
from adaeagle.drafters.base import Candidates, Drafter, DraftSession, Proposal
from adaeagle.drafters.ngram import NgramDrafter, Occurrence
from adaeagle.drafters.suffix import Order, SuffixDrafter
from adaeagle.testing import DrafterContract

TEXTS = [[random.Random(seed).randrange(3) for _ in range(60)] for seed in range(20)]


def begun(drafter: Drafter, text: Sequence[int]) -> tuple[DraftSession, Proposal]:
    """A session that has caught up on a text."""
    session = drafter.begin([text], 0)
    return session, session.catch_up(torch.tensor([text[1:]]), None, [len(text) - 1])


def read(proposal: Proposal) -> list[tuple[int, float]]:
    """The children of a single node."""
    found = proposal.candidates
    assert isinstance(found, Candidates)
    count = int(found.num_children)
    pairs = zip(found.token_ids[0, 0].tolist(), found.scores[0, 0].tolist(), strict=True)
    return list(pairs)[:count]


def drafted_chain(drafter: Drafter, text: Sequence[int], most: int) -> list[tuple[int, float]]:
    """First children, one after another."""
    session, proposal = begun(drafter, text)
    chain: list[tuple[int, float]] = []
    while (children := read(proposal)) and len(chain) < most:
        chain.append(children[0])
        proposal = session.extend(
            torch.tensor([[children[0][0]]]), torch.tensor([[len(chain) - 1]])
        )
    return chain


def searched(text: Sequence[int], n_min: int, n_max: int, occurrence: Occurrence) -> list[int]:
    """What `transformers` does: windows compared one by one, longest n-gram first."""
    for size in range(n_max, n_min - 1, -1):
        ends = [end for end in range(size, len(text)) if text[end - size : end] == text[-size:]]
        if not ends:
            continue
        if occurrence == "frequent":
            counts = Counter(text[end] for end in ends)
            most = max(counts.values())
            ends = [end for end in ends if counts[text[end]] == most]
        return list(text[ends[0] if occurrence == "first" else ends[-1] :])
    return []


@pytest.mark.parametrize("occurrence", ["first", "latest", "frequent"])
@pytest.mark.parametrize(("n_min", "n_max"), [(1, 2), (1, 5), (3, 4), (2, 2)])
def test_an_ngram_draft_is_what_a_search_finds(
    n_min: int, n_max: int, occurrence: Occurrence
) -> None:
    drafter = NgramDrafter(None, n_min, n_max, occurrence)
    for text in TEXTS:
        for size in range(2, len(text), 3):
            known = text[:size]
            chain = drafted_chain(drafter, known, most=10)
            assert [token for token, _ in chain] == searched(known, n_min, n_max, occurrence)[:10]
            assert all(n_min <= score <= n_max for _, score in chain)


def longest_match(text: Sequence[int]) -> int:
    """Length of the longest suffix that occurs earlier."""
    sizes = range(len(text) - 1, 0, -1)
    return next((n for n in sizes if text[-n:] in windows(text[:-1], n)), 0)


def windows(text: Sequence[int], size: int) -> list[Sequence[int]]:
    return [text[start : start + size] for start in range(len(text) - size + 1)]


def continuations(text: Sequence[int], part: Sequence[int]) -> list[int]:
    """The token behind each occurrence of `part`, in order."""
    size = len(part)
    ends = (end for end in range(size, len(text)) if text[end - size : end] == part)
    return [text[end] for end in ends]


@pytest.mark.parametrize("order", ["frequent", "latest"])
def test_a_suffix_tree_is_what_a_search_finds(order: Order) -> None:
    drafter = SuffixDrafter(None, order=order)
    for text in TEXTS:
        for size in range(2, len(text), 3):
            known = text[:size]
            length = longest_match(known)
            session, proposal = begun(drafter, known)
            path, share = list(known[size - length :]), 1.0
            for level in range(6):
                while path and not continuations(known, path):
                    path = path[1:]
                counts = Counter(continuations(known, path) if path else [])
                children = read(proposal)
                total = sum(counts.values())
                assert dict(children) == pytest.approx(
                    {token: share * count / total for token, count in counts.items()}
                )
                if not children:
                    break
                if order == "frequent":
                    assert counts[children[0][0]] == max(counts.values())
                else:
                    assert children[0][0] == continuations(known, path)[-1]
                token, share = random.Random(size + level).choice(children)
                path.append(token)
                proposal = session.extend(torch.tensor([[token]]), torch.tensor([[level]]))


def test_the_length_matched_as_a_score() -> None:
    [(token, score), *_] = drafted_chain(
        SuffixDrafter(None, score="length"), [5, 6, 7, 9, 5, 6, 7], 1
    )
    assert (token, score) == (9, 3.0)


def test_the_chance_of_acceptance_as_a_score() -> None:
    """After `5 6`, which occurs twice: 7 followed it one time in two."""
    session, proposal = begun(SuffixDrafter(None, score="chance"), [5, 6, 7, 1, 5, 6, 8, 2, 5, 6])
    assert dict(read(proposal)) == pytest.approx({8: 1 / 2 * 3 / 5, 7: 1 / 2 * 3 / 5})
    proposal = session.extend(torch.tensor([[8]]), torch.tensor([[0]]))
    assert dict(read(proposal)) == pytest.approx({2: 3 / 5})  # `5 6 8`, which occurs once


def test_a_match_that_is_too_short_is_none() -> None:
    text = [1, 2, 3, 1, 2]
    assert drafted_chain(SuffixDrafter(None, min_match=3), text, 4) == []
    assert len(drafted_chain(SuffixDrafter(None, min_match=2), text, 3)) == 3


def test_padding_and_texts_that_wait() -> None:
    drafter = NgramDrafter()
    session = drafter.begin([[1], [4]], 0)
    session.catch_up(torch.tensor([[2, 1], [5, 4]]), None, [2, 2])
    found = session.catch_up(torch.tensor([[2, 1, 2], [0, 0, 0]]), None, [3, 0]).candidates
    assert found is not None
    assert found.token_ids[:, 0, 0].tolist() == [1, 5]
    # A token that was never proposed has no children.
    found = session.extend(torch.tensor([[1], [9]]), torch.tensor([[0], [0]])).candidates
    assert found is not None
    assert found.num_children.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NgramDrafter(None, 3, 2), "n_min must be from 1 to n_max = 2, got 3"),
        (lambda: NgramDrafter(None, occurrence="last"), "occurrence must be one of first, latest"),  # type: ignore[arg-type]
        (lambda: SuffixDrafter(None, min_match=0), "min_match must be >= 1, got 0"),
        (
            lambda: SuffixDrafter(None, score="p"),  # type: ignore[arg-type]
            "score must be one of chance, share, length, got 'p'",
        ),
    ],
)
def test_what_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_prompt_lookup_of_transformers(
    make_model: Callable[..., PreTrainedModel],
    make_prompt: Callable[[int, int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same drafts are accepted, round for round, of 20 texts."""
    target = Target(make_model("llama"))
    drafter = NgramDrafter(target, n_min=1, n_max=2, occurrence="first")
    theirs: list[int] = []

    def record(self: object, input_ids: Tensor, scores: Tensor, num_matches: int) -> None:
        theirs.append(int(num_matches))

    monkeypatch.setattr(
        candidate_generator.PromptLookupCandidateGenerator, "update_candidate_strategy", record
    )
    total = 0
    for seed in range(20):
        prompt_ids = make_prompt(12, seed)
        out = generate(target, drafter, "chain(length=10)", prompt_ids, max_new_tokens=50)
        theirs.clear()
        # They look up before the first token, we after it.
        begun = torch.tensor([[*prompt_ids, out.token_ids[0]]])
        found = target.model.generate(  # type: ignore[operator]
            begun,
            attention_mask=torch.ones_like(begun),
            do_sample=False,
            max_new_tokens=49,
            prompt_lookup_num_tokens=10,
            pad_token_id=0,
        )
        assert found[0, len(prompt_ids) :].tolist() == out.token_ids
        ours = [r.num_accepted for r in out.rounds]
        assert ours[:-1] == theirs[: len(ours) - 1]
        total += sum(ours)
    assert total > 30


class TestNgram(DrafterContract):
    @pytest.fixture
    def drafter(self) -> Drafter:
        return NgramDrafter(n_max=3)


class TestSuffix(DrafterContract):
    @pytest.fixture
    def drafter(self) -> Drafter:
        return SuffixDrafter()
