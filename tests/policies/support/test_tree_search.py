"""The best static trees, against every tree there is."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from adaeagle import get_policy
from adaeagle.cost.model import CostModel
from policies import StaticTree
from policies.support.tree_search import TreeSearch, round_seconds

Path = tuple[int, ...]
CONTEXTS = torch.tensor([10, 20])


def forests(nodes: int, depth: int, num_ranks: int) -> Iterator[tuple[tuple[Path, ...], ...]]:
    """Every way to hang exactly `nodes` nodes below one: the subtree of each child, in order."""
    if nodes == 0:
        yield ()
    elif depth > 0 and num_ranks > 0:
        for first in range(1, nodes + 1):
            for below in all_trees(first - 1, depth - 1, NUM_RANKS):
                for rest in forests(nodes - first, depth, num_ranks - 1):
                    yield (below, *rest)


@cache
def all_trees(nodes: int, depth: int, num_ranks: int) -> list[tuple[Path, ...]]:
    """The paths of every tree of exactly so many nodes and at most so many levels."""
    found = []
    for forest in forests(nodes, depth, num_ranks):
        paths: list[Path] = []
        for rank, below in enumerate(forest):
            paths += [(rank,), *((rank, *path) for path in below)]
        found.append(tuple(paths))
    return found


NUM_RANKS = 3


def accepted(paths: tuple[Path, ...] | list[Path], acceptance: torch.Tensor) -> float:
    """Expected accepted tokens: the chances of all paths."""
    return sum(
        float(torch.stack([acceptance[d, rank] for d, rank in enumerate(path)]).prod())
        for path in paths
    )


def random_acceptance(depth: int, seed: int) -> torch.Tensor:
    """Chances of the children of a node at each depth, together at most 1, in no order."""
    generator = torch.Generator().manual_seed(seed)
    distribution = torch.rand(depth, NUM_RANKS + 1, generator=generator, dtype=torch.float64) ** 3
    return (distribution / distribution.sum(1, keepdim=True))[:, :NUM_RANKS]


@pytest.mark.parametrize("seed", range(8))
def test_equals_brute_force(seed: int) -> None:
    acceptance = random_acceptance(3, seed)
    search = TreeSearch(acceptance, 6)
    for depth in (1, 2, 3):
        for nodes in range(1, 7):
            best = max(
                accepted(paths, acceptance)
                for count in range(1, nodes + 1)
                for paths in all_trees(count, depth, NUM_RANKS)
            )
            assert float(search.expected[depth - 1, nodes]) == pytest.approx(best, abs=1e-12)
            tree = search.tree(nodes, depth)
            assert len(tree) <= nodes
            assert max(map(len, tree)) <= depth
            assert accepted(tree, acceptance) == pytest.approx(best, abs=1e-12)


def test_brute_force_knows_every_tree() -> None:
    """Of four nodes there are 14, a Catalan number; one is too deep and one too wide for less."""
    assert len(set(all_trees(4, 4, 4))) == 14
    assert len(set(all_trees(4, 3, NUM_RANKS))) == 12


def test_trees_are_what_static_tree_reads() -> None:
    search = TreeSearch(random_acceptance(4, 1), 12)
    tree = [list(path) for path in search.tree(12, 4)]
    policy = get_policy(f"static_tree(tree={tree})")
    assert isinstance(policy, StaticTree)
    assert policy.nodes == len(tree)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_size_and_depth_under_a_cost_table(seed: int) -> None:
    acceptance = random_acceptance(3, seed) * 0.2 + torch.tensor([0.7, 0.05, 0.0])
    cost = CostModel.linear(constant=1.0, draft=0.4, verify=5.0, node=0.2, width=0.1)
    best = TreeSearch(acceptance, 6).best(cost, CONTEXTS)
    candidates = []
    for depth in (1, 2, 3):
        for nodes in range(1, 7):
            # Of each size the one that accepts most, as the paper has it.
            every = [paths for count in range(1, nodes + 1) for paths in all_trees(count, depth, 3)]
            top = max(every, key=lambda paths: (accepted(paths, acceptance), -len(paths)))
            opened = {path[:-1] for path in top}
            seconds = 1.0 + 5.0 + 0.2 * len(top)
            for level in {len(path) for path in opened}:
                seconds += 0.4 + 0.1 * (sum(len(path) == level for path in opened) - 1)
            candidates.append(seconds / (1 + accepted(top, acceptance)))
    assert best.seconds_per_token == pytest.approx(min(candidates))


def test_dear_verification_keeps_a_tree_small_and_dear_drafting_keeps_it_flat() -> None:
    acceptance = torch.tensor([[0.6, 0.2, 0.1]] * 5)
    search = TreeSearch(acceptance, 16)
    cheap = CostModel.linear(constant=0.1, draft=0.01, verify=1.0)
    dear_nodes = CostModel.linear(constant=0.1, draft=0.01, verify=1.0, node=0.3)
    dear_drafts = CostModel.linear(constant=0.1, draft=2.0, verify=1.0)
    assert len(search.best(cheap, CONTEXTS).paths) == 16
    assert len(search.best(dear_nodes, CONTEXTS).paths) < 4
    assert len(search.best(dear_drafts, CONTEXTS).paths[-1]) == 1


def test_a_round_is_priced_by_its_widths() -> None:
    """Level widths of the tree below: the root, two of its children, one grandchild."""
    cost = CostModel.linear(constant=1.0, draft=10.0, verify=100.0, node=7.0, width=0.5)
    tree: list[Path] = [(0,), (1,), (2,), (0, 0), (1, 0), (0, 0, 0)]
    chain: list[Path] = [(0,), (0, 0)]
    found = round_seconds([tree, chain], cost, CONTEXTS)
    assert found.tolist() == pytest.approx([1 + 30.5 + 142, 1 + 20 + 114])


def test_nothing_accepted() -> None:
    search = TreeSearch(torch.zeros(2, 3), 5)
    assert search.tree(5, 2) == [(0,)]
    cost = CostModel.linear(constant=0.0, draft=1.0, verify=1.0)
    assert search.best(cost, CONTEXTS).paths == [(0,)]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"acceptance must be \[depths, ranks\], got \(3,\)"):
        TreeSearch(torch.zeros(3), 5)
    with pytest.raises(ValueError, match="max_nodes must be >= 1, got 0"):
        TreeSearch(torch.zeros(2, 2), 0)
    with pytest.raises(ValueError, match=r"nodes must be in 1\.\.5, got 6"):
        TreeSearch(torch.zeros(2, 2), 5).tree(6, 1)
    with pytest.raises(ValueError, match=r"depth must be in 1\.\.2, got 3"):
        TreeSearch(torch.zeros(2, 2), 5).tree(5, 3)
