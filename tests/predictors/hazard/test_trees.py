"""Nodes of a tree: chains as on chains, siblings by what is left, each row and step by itself."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle.identity import ModelIdentity
from adaeagle.tree import ROOT, DraftTree, Level
from predictors.base import Metadata
from predictors.hazard.chains import HazardChains
from predictors.hazard.network import HazardPredictor
from predictors.hazard.steps import HazardSteps, Known
from predictors.hazard.trees import HazardNodes

MODELS = ModelIdentity("t", "1", "d", "2", feature_size=6, vocab_size=50, dtype="float32")
LOOP = [1, 2, 3, 4] * 4


@pytest.fixture(scope="module")
def steps() -> HazardSteps:
    torch.manual_seed(0)
    predictor = HazardPredictor(k_max=4, horizon=3, hidden_size=16)
    predictor.prepare(Metadata(MODELS), torch.randn(50, 6))
    with torch.no_grad():  # so that whether a path goes along with the text's past is heard
        predictor.step.weight.mul_(3)
    return HazardSteps(predictor.eval())


def known(steps: HazardSteps, num_rounds: int) -> Known:
    """Texts that end where a loop begins anew; the last does not repeat itself."""
    torch.manual_seed(1)
    recent = [LOOP] * (num_rounds - 1) + [[*range(20, 36)]]
    return steps.begin(torch.randn(num_rounds, 6), torch.full((num_rounds,), 4), recent)


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


def only(before: Known, row: int) -> Known:
    """What is known before one of the rounds."""
    return Known(before.contexts[[row]], [before.repeats[row]])


def judged(steps: HazardSteps, tree: DraftTree, known: Known) -> HazardNodes:
    nodes = HazardNodes(steps, known)
    nodes.judge(tree, range(tree.num_rounds))
    return nodes


def test_the_best_path_is_a_chain(steps: HazardSteps) -> None:
    tree, before = grown(4), only(known(steps, 2), 0)
    path = [0, 3, 9, 15]
    nodes, chain = judged(steps, tree, before), HazardChains(steps, before)
    for length in range(1, 5):
        some = path[:length]
        log_probs, token_ids = tree.log_probs[:, some].tolist(), tree.token_ids[:, some].tolist()
        [distribution] = chain.after([0], log_probs, token_ids)
        assert nodes.survival(0)[path[length - 1]] == pytest.approx(distribution.survival, rel=1e-5)
    families = nodes.latest(0)
    assert [(each.depth, each.best, each.end) for each in families] == [(4, 15, 18), (4, 18, 21)]
    assert families[0].against == pytest.approx(distribution.against, rel=1e-5)


def test_that_a_path_goes_along_is_heard_on_every_path(steps: HazardSteps) -> None:
    """The same draft after an end that is new is judged otherwise, from its first token on."""
    tree, before = grown(2), only(known(steps, 2), 0)
    repeat = before.repeats[0]._replace(length=0, following=[-1] * 4)
    looping = judged(steps, tree, before).survival(0)
    new = judged(steps, tree, Known(before.contexts, [repeat])).survival(0)
    assert abs(looping[0] - new[0]) > 1e-3
    # Below a second choice nothing goes along any more.
    below = [each[6] / each[1] for each in (looping, new)]
    assert below[0] == pytest.approx(below[1], rel=1e-5)


def test_what_the_text_has_said_before_is_heard(steps: HazardSteps) -> None:
    """Of two paths that do not go along, after the one whose tokens are known in this order."""
    tree, before = grown(2), only(known(steps, 2), 1)
    [repeat] = before.repeats
    assert repeat.length == 0
    said = repeat._replace(text="".join(map(chr, (*LOOP, 9))))
    none, some = (
        judged(steps, tree, Known(before.contexts, [each])).survival(0) for each in (repeat, said)
    )
    assert abs(none[0] - some[0]) > 1e-3  # its first token is in the text
    assert abs(none[3] / none[0] - some[3] / some[0]) > 1e-3  # its first two are, in this order


def test_siblings_share_what_the_best_leaves(steps: HazardSteps) -> None:
    tree = grown(2)
    survival = judged(steps, tree, only(known(steps, 2), 0)).survival(0)
    for above, family in ((1.0, range(3)), (survival[0], range(3, 6)), (survival[1], range(6, 9))):
        best, *others = family
        assert sum(survival[each] for each in family) == pytest.approx(above, rel=1e-5)
        probs = tree.log_probs[0].exp()
        ratio = survival[others[0]] / survival[others[1]]
        assert ratio == pytest.approx(float(probs[others[0]] / probs[others[1]]), rel=1e-5)
        assert 0 < survival[best] < above


def test_judging_as_it_grows_is_judging_at_once(steps: HazardSteps) -> None:
    before = known(steps, 3)
    at_once = judged(steps, grown(4, 3, ragged=True), before)
    step_by_step = HazardNodes(steps, before)
    whole = grown(4, 3, ragged=True)
    for num_levels, asked in ((1, [0]), (2, [2, 0]), (3, [1]), (3, [1]), (4, [0, 1, 2])):
        step_by_step.judge(whole.cut(num_levels), asked)
    for row in range(3):
        assert step_by_step.survival(row) == pytest.approx(at_once.survival(row), rel=1e-5)
        one, other = step_by_step.latest(row), at_once.latest(row)
        assert [family[:3] for family in one] == [family[:3] for family in other]


def test_each_round_by_itself_and_padding_is_never_accepted(steps: HazardSteps) -> None:
    tree, before = grown(3, 3, ragged=True), known(steps, 3)
    together = judged(steps, tree, before)
    for row in range(3):
        alone = judged(steps, row_of(tree, row), only(before, row))
        assert together.survival(row) == pytest.approx(alone.survival(0), rel=1e-5)
        is_real = [each > 0 for each in together.survival(row)]
        assert is_real == tree.valid[row].tolist()


def test_a_level_of_padding_alone_adds_zeros(steps: HazardSteps) -> None:
    tree = row_of(grown(2, 3, ragged=True), 2)
    nodes = HazardNodes(steps, only(known(steps, 3), 2))
    nodes.judge(tree.cut(1), [0])
    before = nodes.survival(0)
    nodes.judge(tree, [0])
    assert nodes.survival(0) == before + [0.0] * 6


def test_no_child_is_likelier_than_its_parent(steps: HazardSteps) -> None:
    tree = grown(4)
    survival = judged(steps, tree, only(known(steps, 2), 1)).survival(0)
    parents = tree.parents[0].tolist()
    assert all(survival[n] <= survival[p] for n, p in enumerate(parents) if p >= 0)


def test_features_that_are_not_finite_are_refused(steps: HazardSteps) -> None:
    lost = steps.begin(torch.full((1, 6), torch.nan), torch.tensor([4]), [LOOP])
    with pytest.raises(ValueError, match="features must be finite"):
        judged(steps, grown(1), lost)
