"""Trees as tensors: growing, taking, paths, and choices that never orphan a node."""

import pickle
from dataclasses import replace

import pytest
import torch

from adaeagle import DraftTree
from adaeagle.tree import Level, ancestors, likeliest


def level(parents: list[int], tokens: list[list[int]], probs: list[list[float]]) -> Level:
    return Level(torch.tensor([parents]), torch.tensor([tokens]), torch.tensor([probs]).log())


@pytest.fixture
def tree() -> DraftTree:
    """Rows 0 to 2 below the root, rows 3 and 4 below row 0, rows 5 and 6 below row 2."""
    grown = DraftTree.empty(1, "cpu").grow(level([-1], [[7, 8, 9]], [[0.5, 0.3, 0.1]]))
    return grown.grow(level([0, 2], [[1, 2], [3, 4]], [[0.6, 0.2], [0.9, 0.05]]))


def test_grow(tree: DraftTree) -> None:
    assert len(tree) == 7
    assert tree.num_levels == 2
    assert tree.token_ids.tolist() == [[7, 8, 9, 1, 2, 3, 4]]
    assert tree.parents.tolist() == [[-1, -1, -1, 0, 0, 2, 2]]
    assert tree.depths.tolist() == [[1, 1, 1, 2, 2, 2, 2]]
    assert tree.ranks.tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    # The root was run first, then rows 0 and 2.
    assert tree.origins.tolist() == [[0, 0, 0, 1, 1, 2, 2]]
    expected = torch.tensor([[0.5, 0.3, 0.1, 0.5 * 0.6, 0.5 * 0.2, 0.1 * 0.9, 0.1 * 0.05]])
    torch.testing.assert_close(tree.path_log_probs.exp(), expected)
    assert tree.is_dense


def test_grow_pads_ragged_levels() -> None:
    """Two rounds side by side: one opens both nodes, the other one, with a single child."""
    empty = DraftTree.empty(2, "cpu")
    first = Level(
        torch.tensor([[-1], [-1]]),
        torch.tensor([[[7, 8]], [[5, 6]]]),
        torch.full((2, 1, 2), 0.5).log(),
    )
    second = Level(
        torch.tensor([[0, 1], [1, 0]]),
        torch.tensor([[[1, 2], [3, 4]], [[1, 2], [3, 4]]]),
        torch.full((2, 2, 2), 0.5).log(),
        num_children=torch.tensor([[2, 2], [1, 0]]),
    )
    tree = empty.grow(first).grow(second)
    assert not tree.is_dense
    assert tree.valid.tolist() == [[True] * 6, [True, True, True, False, False, False]]
    assert tree.path_log_probs[1, 3:].tolist() == [-torch.inf] * 3
    assert likeliest(tree.path_log_probs, 6).tolist() == tree.valid.tolist()


def test_a_tree_cut_is_the_tree_it_was() -> None:
    first = level([-1], [[7, 8, 9]], [[0.5, 0.3, 0.1]])
    second = Level(
        torch.tensor([[0, 2]]),
        torch.tensor([[[1, 2], [3, 4]]]),
        torch.full((1, 2, 2), 0.5).log(),
        num_children=torch.tensor([[2, 1]]),
        entropies=torch.tensor([[0.3, 0.4]]),
    )
    third = level([3], [[5]], [[0.5]])
    stages = [DraftTree.empty(1, "cpu")]
    for grown in (replace(first, entropies=torch.tensor([[0.2]])), second, third):
        stages.append(stages[-1].grow(grown))
    for num_levels, stage in enumerate(stages[:3]):
        cut = stages[3].cut(num_levels)
        for name in ("token_ids", "parents", "depths", "ranks", "valid", "origins"):
            assert torch.equal(getattr(cut, name), getattr(stage, name)), name
        assert torch.equal(cut.path_log_probs, stage.path_log_probs)
        assert (cut.num_levels, cut.levels) == (num_levels, stage.levels)
    entropies = stages[3].cut(2).entropies
    assert entropies is None or entropies.shape == (1, 7)
    assert len(stages[3].cut(9)) == len(stages[3])


def test_columns_nobody_asked_for_are_none(tree: DraftTree) -> None:
    assert tree.entropies is None
    assert tree.confidences is None
    assert pickle.loads(pickle.dumps(tree)).confidences is None


def test_the_last_level_is_a_part_of_the_rows(tree: DraftTree) -> None:
    assert tree.token_ids[:, tree.last_level].tolist() == [[1, 2, 3, 4]]
    assert tree.cut(1).token_ids[:, tree.cut(1).last_level].tolist() == [[7, 8, 9]]
    assert DraftTree.empty(1, "cpu").last_level == slice(0, 0)


def test_a_round_alone(tree: DraftTree) -> None:
    grown = DraftTree.empty(2, "cpu").grow(
        Level(
            torch.tensor([[-1], [-1]]),
            torch.tensor([[[7, 8]], [[5, 6]]]),
            torch.full((2, 1, 2), 0.5).log(),
        )
    )
    assert grown.row(1).token_ids.tolist() == [[5, 6]]
    assert grown.row(1).num_rounds == 1


def test_take_renumbers_parents(tree: DraftTree) -> None:
    keep = torch.tensor([[True, False, True, True, False, False, True]])
    taken = tree.take(keep, 5)
    assert taken.token_ids[0, :4].tolist() == [7, 9, 1, 4]
    assert taken.parents[0, :4].tolist() == [-1, -1, 0, 1]
    assert taken.valid.tolist() == [[True] * 4 + [False]]
    assert taken.origins[0, :4].tolist() == [0, 0, 1, 2]
    assert ancestors(taken)[0, :4, :4].int().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [1, 0, 1, 0],
        [0, 1, 0, 1],
    ]


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8, 13])
def test_ancestors_are_paths(depth: int) -> None:
    """Against a walk from node to node, at depths around powers of two."""
    torch.manual_seed(depth)
    tree = DraftTree.empty(1, "cpu")
    frontier = [-1]
    for number in range(depth):
        tokens = torch.randint(9, (len(frontier), 2)).tolist()
        tree = tree.grow(level(frontier, tokens, [[0.5, 0.4]] * len(frontier)))
        rows = torch.randperm(2 * len(frontier))[:3] + len(tree) - 2 * len(frontier)
        frontier = sorted(rows.tolist())
        assert tree.num_levels == number + 1
    parents = tree.parents[0].tolist()
    found = ancestors(tree)[0]
    for row in range(len(tree)):
        path, node = set(), row
        while node >= 0:
            path.add(node)
            node = parents[node]
        assert set(found[row].nonzero().flatten().tolist()) == path


def test_siblings_are_no_chain(tree: DraftTree) -> None:
    """As many nodes as levels, and yet none is above another."""
    taken = tree.take(torch.tensor([[True, True, *[False] * 5]]), 2)
    assert ancestors(taken)[0].int().tolist() == [[1, 0], [0, 1]]


def test_likeliest_marks_the_best() -> None:
    scores = torch.tensor([[-1.0, -3.0, -0.5, -torch.inf], [-2.0, -1.0, -torch.inf, -torch.inf]])
    assert likeliest(scores, 2).int().tolist() == [[1, 0, 1, 0], [1, 1, 0, 0]]
    assert likeliest(scores, 9).int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert likeliest(scores, 0).int().tolist() == [[0] * 4] * 2
    assert likeliest(scores, torch.tensor([1, 2])).int().tolist() == [[0, 0, 1, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize("count", [1, 3, 9, 19])
@pytest.mark.parametrize("kind", ["distinct", "tied", "few"])
@pytest.mark.parametrize("size", [20, 65])
def test_many_rows_are_marked_as_one_by_one(size: int, kind: str, count: int) -> None:
    """And as a stable sort has it."""
    torch.manual_seed(count)
    scores = -torch.rand(50, size)
    if kind == "tied":
        scores = scores.mul(4).round()
    if kind == "few":
        scores[torch.rand(50, size) < 0.7] = -torch.inf
    one_by_one = torch.cat([likeliest(row.unsqueeze(0), count) for row in scores])
    assert torch.equal(likeliest(scores, count), one_by_one)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
    assert one_by_one.sum(1).tolist() == (scores > -torch.inf).sum(1).clamp(max=count).tolist()
    assert bool(one_by_one.gather(1, best).eq(scores.gather(1, best) > -torch.inf).all())


def test_equal_scores_go_to_the_earlier() -> None:
    assert likeliest(torch.zeros(1, 40), 7)[0].int().tolist() == [1] * 7 + [0] * 33


def test_certain_children_never_lose_their_parent() -> None:
    """In half precision a child is often certain, and as likely as its parent.

    `torch.topk` does lose parents of chosen nodes in such trees.
    """
    torch.manual_seed(0)
    lost = 0
    for _ in range(100):
        tree = DraftTree.empty(1, "cpu")
        frontier = torch.tensor([[-1]])
        for _ in range(5):
            shape = (1, frontier.shape[1], 4)
            log_probs = torch.randn(shape).mul(3).log_softmax(-1).sort(descending=True).values
            certain = torch.rand(shape[:2]) < 0.5
            log_probs[certain] = torch.tensor([0.0, -9.0, -9.0, -9.0])
            tokens = torch.arange(4).expand(shape)
            tree = tree.grow(Level(frontier, tokens, log_probs.half().float()))
            scores = tree.path_log_probs.masked_fill(tree.depths < tree.num_levels, -torch.inf)
            frontier = likeliest(scores, 4)[0].nonzero().view(1, -1)
        parents = tree.parents[0]
        for count in (5, 11, 23):
            kept = torch.cat((likeliest(tree.path_log_probs, count)[0], torch.tensor([True])))
            assert kept[parents][kept[:-1]].all()
            top = torch.zeros(len(tree) + 1, dtype=torch.bool)
            top[tree.path_log_probs[0].topk(count).indices] = True
            top[-1] = True
            lost += not top[parents][top[:-1]].all()
    assert lost > 10
