"""Nodes of a tree: chains as on chains, siblings by what is left, each row and step by itself."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle.identity import ModelIdentity
from adaeagle.policy import Context
from adaeagle.tree import ROOT, DraftTree, Level
from predictors.base import Metadata
from predictors.hazard.network import HazardPredictor
from predictors.hazard.scorer import HazardScorer

MODELS = ModelIdentity("t", "1", "d", "2", feature_size=6, vocab_size=50, dtype="float32")
LOOP = [1, 2, 3, 4] * 4


NEW = [*range(20, 36)]  # a text that does not repeat itself


@pytest.fixture(scope="module")
def predictor() -> HazardPredictor:
    torch.manual_seed(0)
    predictor = HazardPredictor(k_max=4, horizon=3, hidden_size=16)
    predictor.prepare(Metadata(MODELS), torch.randn(50, 6))
    with torch.no_grad():  # so that whether a path goes along with the text's past counts
        predictor.step.weight.mul_(3)
    return predictor.eval()


def begun(predictor: HazardPredictor, texts: list[list[int]], first: int = 0) -> HazardScorer:
    """Rounds after texts, whose features are those of the rounds `first` and on."""
    features = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    ids = torch.full((len(texts),), 4)
    scorer = predictor.scorer()
    own = features[first : first + len(texts)]
    scorer.begin(Context(0, ids + 9, ids + 99, ids, ids, own, lambda n: texts))
    return scorer


def grown(num_levels: int, num_rounds: int = 1, *, ragged: bool = False) -> DraftTree:
    """Three children of the root, then of two nodes a level; the best say what the loop says."""
    generator = torch.Generator().manual_seed(2)
    tree = DraftTree.empty(num_rounds, "cpu")
    parents = torch.full((num_rounds, 1), ROOT)
    for depth in range(num_levels):
        num_parents = parents.shape[1]
        ids = torch.tensor([LOOP[depth], 40, 41]).expand(num_rounds, num_parents, 3)
        distribution = torch.rand(num_rounds, num_parents, 3, generator=generator).sort(
            descending=True
        )
        counts = None
        if ragged and depth:  # the first round opens one node, another two, one of them with two
            counts = torch.tensor([[3, 0], [3, 2], [0, 0]])[:num_rounds]
        before = len(tree)
        tree = tree.grow(Level(parents, ids, (distribution.values / 3 + 1e-3).log(), counts))
        parents = torch.tensor([[before, before + 1]]).expand(num_rounds, -1)
    return tree


def row_of(tree: DraftTree, row: int) -> DraftTree:
    columns: dict[str, Any] = {
        field.name: column[row : row + 1]
        for field in fields(tree)
        if isinstance(column := getattr(tree, field.name), Tensor)
    }
    return replace(tree, **columns)


def scored(scorer: HazardScorer, tree: DraftTree) -> HazardScorer:
    scorer.score(tree)
    return scorer


def test_siblings_share_what_the_best_leaves(predictor: HazardPredictor) -> None:
    tree = grown(2)
    survival = scored(begun(predictor, [LOOP]), tree).survival(0)
    for above, family in ((1.0, range(3)), (survival[0], range(3, 6)), (survival[1], range(6, 9))):
        best, *others = family
        assert sum(survival[each] for each in family) == pytest.approx(above, rel=1e-5)
        probs = tree.log_probs[0].exp()
        ratio = survival[others[0]] / survival[others[1]]
        assert ratio == pytest.approx(float(probs[others[0]] / probs[others[1]]), rel=1e-5)
        assert 0 < survival[best] < above


def test_the_best_path_is_a_chain(predictor: HazardPredictor) -> None:
    tree = grown(4)
    scorer, alone = scored(begun(predictor, [LOOP]), tree), begun(predictor, [LOOP])
    path = [0, 3, 9, 15]
    chain = DraftTree.empty(1, "cpu")
    for length, node in enumerate(path):
        ids, log_probs = (
            column[:, node].view(1, 1, 1) for column in (tree.token_ids, tree.log_probs)
        )
        chain = chain.grow(Level(torch.tensor([[length - 1]]), ids, log_probs))
        alone.score(chain)
        assert alone.survival(0)[-1] == pytest.approx(scorer.survival(0)[node], rel=1e-5)
    families, [last] = scorer.latest(0), alone.latest(0)
    assert [(each.depth, each.best, each.end) for each in families] == [(4, 15, 18), (4, 18, 21)]
    assert families[0].ahead == pytest.approx(last.ahead, rel=1e-5)


def test_a_path_that_follows_a_repeat_is_scored_otherwise(predictor: HazardPredictor) -> None:
    """The same draft after an end that is new, from its first token on."""
    tree = grown(2)
    looping = scored(begun(predictor, [LOOP]), tree).survival(0)
    new = scored(begun(predictor, [NEW]), tree).survival(0)
    assert abs(looping[0] - new[0]) > 1e-3
    assert abs(looping[3] / looping[0] - new[3] / new[0]) > 1e-3


def test_what_the_text_has_said_before_counts(predictor: HazardPredictor) -> None:
    """Of two texts that do not repeat themselves, one holds the draft's tokens in their order."""
    tree = grown(2)
    held = [1, 2, *NEW[2:]]  # as long as the other, and its end is new as well
    none, some = (scored(begun(predictor, [text]), tree).survival(0) for text in (NEW, held))
    assert abs(none[0] - some[0]) > 1e-3  # its first token is in the text
    assert abs(none[3] / none[0] - some[3] / some[0]) > 1e-3  # its first two are, in this order


TEXTS = [LOOP, LOOP, NEW]


def test_scoring_as_it_grows_is_scoring_at_once(predictor: HazardPredictor) -> None:
    whole = grown(4, 3, ragged=True)
    at_once, step_by_step = scored(begun(predictor, TEXTS), whole), begun(predictor, TEXTS)
    for num_levels in (1, 3, 3, 4):  # two levels at once, and the same again
        step_by_step.score(whole.cut(num_levels))
    for row in range(3):
        assert step_by_step.survival(row) == pytest.approx(at_once.survival(row), rel=1e-5)
        one, other = step_by_step.latest(row), at_once.latest(row)
        assert [family[:3] for family in one] == [family[:3] for family in other]


def test_each_round_by_itself_and_padding_is_never_accepted(predictor: HazardPredictor) -> None:
    tree = grown(3, 3, ragged=True)
    together = scored(begun(predictor, TEXTS), tree)
    for row in range(3):
        alone = scored(begun(predictor, [TEXTS[row]], row), row_of(tree, row))
        assert together.survival(row) == pytest.approx(alone.survival(0), rel=1e-5)
        is_real = [each > 0 for each in together.survival(row)]
        assert is_real == tree.valid[row].tolist()


def test_a_level_of_padding_alone_adds_zeros(predictor: HazardPredictor) -> None:
    tree = row_of(grown(2, 3, ragged=True), 2)
    scorer = scored(begun(predictor, [NEW]), tree.cut(1))
    before = scorer.survival(0)
    assert scored(scorer, tree).survival(0) == before + [0.0] * 6


def test_no_child_is_likelier_than_its_parent(predictor: HazardPredictor) -> None:
    tree = grown(4)
    survival = scored(begun(predictor, [NEW]), tree).survival(0)
    parents = tree.parents[0].tolist()
    assert all(survival[n] <= survival[p] for n, p in enumerate(parents) if p >= 0)


def test_contexts_that_do_not_serve_are_refused(predictor: HazardPredictor) -> None:
    ids = torch.tensor([4])
    lost = Context(0, ids, ids, ids, ids, torch.full((1, 6), torch.nan), lambda n: [LOOP])
    with pytest.raises(ValueError, match="features must be finite"):
        predictor.scorer().begin(lost)
    with pytest.raises(ValueError, match="recent tokens must be given"):
        predictor.scorer().begin(Context(0, ids, ids, ids, ids, torch.zeros(1, 6)))
