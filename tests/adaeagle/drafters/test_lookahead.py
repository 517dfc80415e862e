"""Lookahead: what the window's rows see, what of them is kept, and whose text it is."""

from collections.abc import Callable, Sequence

import pytest
import torch

from adaeagle import Target, generate, generate_batch
from adaeagle.drafters.base import Drafter, Verified
from adaeagle.drafters.lookahead import LookaheadDrafter, LookaheadSession, PhrasePool, Window
from adaeagle.models.backbone import LAST
from adaeagle.testing import DrafterContract
from adaeagle.tree import ExtraRows

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]


class Recording(LookaheadDrafter):
    """Notes every round: text, window, and what the target made of it."""

    def __init__(self, target: Target, window: int, ngram: int) -> None:
        super().__init__(target, window, ngram)
        self.steps: list[tuple[list[int], list[list[int]], list[int]]] = []

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> LookaheadSession:
        return RecordingSession(prompts, self)


class RecordingSession(LookaheadSession):
    def extra_rows(self) -> ExtraRows:
        rows = super().extra_rows()
        assert isinstance(self._drafter, Recording)
        assert isinstance(self.indexes[0], PhrasePool)
        before = [list(level) for level in self._windows[0].levels]
        self._drafter.steps.append((list(self.indexes[0].token_ids), before, []))
        return rows

    def verified(self, result: Verified) -> None:
        super().verified(result)
        if result.extra_logits is not None:
            assert isinstance(self._drafter, Recording)
            self._drafter.steps[-1][2].extend(self._windows[0].levels[-1])


@pytest.mark.parametrize(("width", "ngram"), [(5, 4), (2, 3), (3, 6)])
@torch.inference_mode()
def test_a_window_is_each_column_as_a_text_of_its_own(
    width: int, ngram: int, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    target = make_pair("model")[0]
    drafter = Recording(target, width, ngram)
    prompt = make_prompt(7, 0)
    out = generate(target, drafter, "static_tree", prompt, max_new_tokens=30)
    assert out.token_ids == generate(target, None, "vanilla", prompt, max_new_tokens=30).token_ids
    assert len(drafter.steps) > 3
    for text, levels, new in drafter.steps:
        assert len(new) == width
        for column, token_id in enumerate(new):
            above = [level[column] for level in levels[1:]]
            ids = torch.tensor([[*text, *levels[0][:column], *above]])
            positions = torch.arange(ids.shape[1])[None]
            found = target.forward(ids, positions, None, None, (LAST,))
            assert int(target.logits(found.last[:, -1]).argmax()) == token_id


def test_a_window_moves_on_and_its_columns_are_phrases() -> None:
    window = Window(3, 3, [[11, 12], [20, 21, 22], [30, 31, 32]])
    new = [40, 41, 42]
    assert window.phrases(10, new) == [(10, (20, 30, 40)), (11, (21, 31, 41)), (12, (22, 32, 42))]
    window.step(new)
    assert window.levels == [[21, 22], [30, 31, 32], [40, 41, 42]]


def test_a_pool_keeps_the_latest_phrases_as_a_trie() -> None:
    pool = PhrasePool(2, 2, from_text=False)
    pool.append(5)
    for phrase in ((1, 2), (1, 3), (4, 6), (1, 3)):
        pool.add(5, phrase)
    assert pool.children(pool.root()) == [(1, 0.0), (4, -1.0)]
    pool.add(5, (1, 2))
    assert pool.children(pool.root()) == [(1, 0.0)]
    below = pool.after(pool.root(), 1)
    assert pool.children(below) == [(2, 0.0), (3, -1.0)]
    assert pool.children(pool.after(below, 2)) == []


def test_phrases_of_the_text() -> None:
    pool = PhrasePool(2, 2, from_text=True)
    for token_id in (1, 2, 3, 1):
        pool.append(token_id)
    assert pool.children(pool.root()) == [(2, 0.0)]


def test_texts_that_repeat_themselves_are_guessed(
    make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    """The pool fills without any draft, and texts side by side are as alone."""
    target = make_pair("model")[0]
    drafter = LookaheadDrafter(target, window=6, ngram=4)
    prompts = [make_prompt(size, size) for size in (7, 3, 5)]
    outs = generate_batch(target, drafter, "static_tree", prompts, max_batch=2, max_new_tokens=60)
    for prompt, out in zip(prompts, outs, strict=True):
        plain = generate(target, None, "vanilla", prompt, max_new_tokens=60)
        assert out.token_ids == plain.token_ids
        alone = generate(target, drafter, "static_tree", prompt, max_new_tokens=60)
        assert [r.num_accepted for r in alone.rounds] == [r.num_accepted for r in out.rounds]
    assert sum(r.num_accepted for out in outs for r in out.rounds) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"window": 1}, "window must be >= 2"), ({"ngram": 2}, "ngram must be >= 3, got 2")],
)
def test_what_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LookaheadDrafter(**arguments)  # type: ignore[arg-type]


class TestLookahead(DrafterContract):
    @pytest.fixture
    def drafter(self, target: Target) -> Drafter:
        return LookaheadDrafter(target, window=4, ngram=4)
