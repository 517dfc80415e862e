"""Named trees as published, trees of one's own, and what is no tree."""

import json
from pathlib import Path

import pytest
import torch

from adaeagle import Context, DraftTree, get_policy
from adaeagle.tree import Level
from policies.static_tree import StaticTree, read_tree

MC_SIM_7B_63 = """
[0] [0,0] [1] [0,1] [2] [0,0,0] [1,0] [0,2] [3] [0,3] [4] [0,4] [2,0] [0,5] [0,0,1] [5] [0,6] [6]
[0,7] [0,1,0] [1,1] [7] [0,8] [0,0,2] [3,0] [0,9] [8] [9] [1,0,0] [0,2,0] [1,2] [0,0,3] [4,0] [2,1]
[0,0,4] [0,0,5] [0,0,0,0] [0,1,1] [0,0,6] [0,3,0] [5,0] [1,3] [0,0,7] [0,0,8] [0,0,9] [6,0] [0,4,0]
[1,4] [7,0] [0,1,2] [2,0,0] [3,1] [2,2] [8,0] [0,5,0] [1,5] [1,0,1] [0,2,1] [9,0] [0,6,0] [0,0,0,1]
[1,6] [0,7,0]
"""
"""In their own order: https://github.com/FasterDecoding/Medusa, medusa/model/medusa_choices.py."""


def test_medusa_63_is_medusas() -> None:
    published = [
        tuple(int(rank) for rank in path.strip("[]").split(",")) for path in MC_SIM_7B_63.split()
    ]
    assert len(published) == 63
    assert read_tree("medusa_63") == sorted(published, key=lambda path: (len(path), path))


@pytest.mark.parametrize(
    ("name", "nodes", "width"),
    [("eagle1", 25, (1, 4, 4, 1, 1)), ("medusa_63", 63, (1, 10, 10, 1))],
)
def test_budgets(name: str, nodes: int, width: tuple[int, ...]) -> None:
    """Nodes verified, and nodes that each draft forward runs."""
    policy = get_policy(f"static_tree(tree={name!r})")
    assert isinstance(policy, StaticTree)
    assert policy.nodes == nodes
    assert policy.width == width
    assert policy.depth == len(width)


def test_a_file_a_list_and_a_name_are_the_same_tree(tmp_path: Path) -> None:
    paths = read_tree("eagle1")
    file = tmp_path / "tree.json"
    file.write_text(json.dumps(paths[::-1]), encoding="utf-8")
    assert read_tree(str(file)) == read_tree(paths[::-1]) == paths
    assert StaticTree(str(file)).nodes == 25


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("eagle_1", r"tree must be one of eagle1, .* or a JSON file, got 'eagle_1'"),
        ([], "tree must hold at least one path"),
        ([[]], "tree must hold at least one path, and none that is empty"),
        ([[0], [1, 0]], r"tree must hold \[1\], the parent of \[1, 0\]"),
        ([[0], [2]], r"tree must hold the earlier siblings of \[2\]"),
        ([[-1]], r"tree must hold the earlier siblings of \[-1\]"),
    ],
)
def test_what_is_no_tree(tree: str | list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StaticTree(tree)


def test_wrong_proposal() -> None:
    with pytest.raises(ValueError, match="proposal must be 'draw' or 'top_k', got 'best'"):
        StaticTree(proposal="best")  # type: ignore[arg-type]


def test_children_go_by_rank_whatever_their_probability() -> None:
    """[1] has two children and [0] none; the second of them goes on."""
    policy = StaticTree([[0], [1], [1, 0], [1, 1], [1, 1, 0]])
    one = torch.ones(1, dtype=torch.int64)
    budget = policy.plan(Context(0, one, 99 * one, one, one))
    assert (budget.depth, budget.width, budget.nodes, budget.children) == (3, (1, 1, 1), 5, 2)
    tree = DraftTree.empty(1, "cpu")
    assert policy.expand(tree, torch.tensor([[-1]]), budget).tolist() == [[2]]
    sure = torch.tensor([[[0.99, 0.01]]]).log()
    tree = tree.grow(Level(torch.tensor([[-1]]), torch.tensor([[[5, 6]]]), sure))
    assert policy.expand(tree, torch.tensor([[0, 1]]), budget).tolist() == [[0, 2]]
    tree = tree.grow(Level(torch.tensor([[1]]), torch.tensor([[[5, 6]]]), sure))
    assert policy.expand(tree, torch.tensor([[2, 3]]), budget).tolist() == [[0, 1]]
