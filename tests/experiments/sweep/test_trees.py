"""Static trees fitted to texts."""

from collections.abc import Callable

import pytest

from adaeagle import get_policy
from adaeagle.cost.model import CostModel
from adaeagle.replay.replay import replay
from adaeagle.search_space import Int, Tree
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_trace
from adaeagle.trace.trace import Trace
from experiments.sweep.trees import FittedTrees

ROOM = Tree((), Int(1, 12), Int(1, 6))
COST = CostModel.linear(constant=1.0, draft=1.0, verify=10.0, node=0.2)


def test_a_chain_where_the_best_children_are_accepted(make_trace: Callable[..., Trace]) -> None:
    trees = FittedTrees(make_trace(accepted=3), COST, ROOM)
    assert trees.best.paths == [(0,), (0, 0), (0, 0, 0)]
    assert trees.paths(2, 6) == [[0], [0, 0]]


def test_a_branch_where_the_text_takes_the_second_child() -> None:
    """Every other position goes on in the second child and from there in the best ones."""
    texts = toy_trace([[0, 9] * 20] * 3, k_max=6, beams=(2, 4), second_rank=1)
    trees = FittedTrees(Trace(texts, VOCAB_SIZE), COST, ROOM)
    assert {(0,), (1,), (1, 0)} <= set(trees.best.paths)


def test_no_static_tree_of_that_size_replays_faster(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(accepted=2)
    trees = FittedTrees(trace, COST, ROOM)

    def seconds(paths: list[list[int]]) -> float:
        rounds = replay(get_policy(f"static_tree(tree={paths})"), trace).rounds
        return float(COST.round_seconds(rounds.shapes(trace.positions)).sum())

    best = seconds([list(path) for path in trees.best.paths])
    for other in ([[0]], [[0], [1]], [[0], [0, 0], [1]], [[0], [0, 0], [0, 0, 0]]):
        assert best <= seconds(other) + 1e-9


def test_without_a_draft_model_the_first_guess_stays() -> None:
    """The best tree holds nodes that were never drafted: there is nothing to replay it with."""
    texts = toy_trace([[0, 0, 9] * 10] * 2, k_max=6, second_rank=1)
    trace = Trace(texts, VOCAB_SIZE)
    assert len(FittedTrees(trace, COST, ROOM).best.paths) >= 1


def test_equal_texts_give_equal_trees(make_trace: Callable[..., Trace]) -> None:
    """Processes that share a study must mean the same tree."""
    one, other = (FittedTrees(make_trace(accepted=4), COST, ROOM) for _ in range(2))
    for nodes in (1, 5, 12):
        for depth in (1, 3, 6):
            assert one.paths(nodes, depth) == other.paths(nodes, depth)


@pytest.mark.parametrize(("nodes", "depth"), [(13, 2), (3, 7)])
def test_room(nodes: int, depth: int, make_trace: Callable[..., Trace]) -> None:
    with pytest.raises(ValueError, match="must be in 1"):
        FittedTrees(make_trace(), COST, ROOM).paths(nodes, depth)
