"""Named trees, as published."""

import pytest

from adaeagle import get_policy
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
