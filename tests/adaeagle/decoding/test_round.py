"""The drafting loop: what is opened, where it ends, and rounds side by side."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adaeagle import Budget, DraftTree, Policy, get_policy
from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.round import clamp_budget, grow_tree, open_nodes
from adaeagle.policy import Context
from adaeagle.tree import Level

VOCAB = 12


class Tables:
    """Proposes for rounds side by side, each from a table of its own, of the last token."""

    is_drawn = False
    max_depth = None

    def __init__(self, tables: Tensor) -> None:
        self.tables = tables.log_softmax(-1)  # [P, V, V]
        self.widths: list[int] = []

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        self.widths.append(rows.shape[1])
        last = torch.zeros_like(rows) if len(tree) == 0 else tree.token_ids.gather(1, rows)
        distributions = self.tables.gather(1, last.unsqueeze(2).expand(-1, -1, VOCAB))
        log_probs, ids = distributions.topk(num_ranks, dim=-1)
        return Level(rows, ids, log_probs, num_children)


def run(policy: Policy, tables: Tensor, depth: int | Tensor | None = None) -> DraftTree:
    """One round of each table, the nodes to verify alone."""
    num_rounds = tables.shape[0]
    ones = torch.ones(num_rounds, dtype=torch.int64)
    policy.reset()
    budget = policy.plan(Context(0, ones, 99 * ones, ones, ones))
    if depth is not None:
        budget = replace(budget, depth=depth)
    cpu = torch.device("cpu")
    tree = grow_tree(policy, Tables(tables), budget, num_rounds, cpu, RoundClock(cpu))
    keep = policy.select(tree, budget)
    return tree.take(keep, int(keep.sum(1).max()))


def paths(tree: DraftTree, round_: int) -> set[tuple[int, ...]]:
    """Token paths of one round's nodes."""
    found: list[tuple[int, ...]] = []
    rows = zip(
        tree.token_ids[round_].tolist(),
        tree.parents[round_].tolist(),
        tree.valid[round_].tolist(),
        strict=True,
    )
    for token, parent, valid in rows:
        found.append((*(found[parent] if parent >= 0 else ()), token) if valid else ())
    return set(found) - {()}


@pytest.fixture
def tables() -> Tensor:
    torch.manual_seed(0)
    return 2 * torch.randn(4, VOCAB, VOCAB)


@pytest.mark.parametrize(
    "spec",
    [
        "chain(length=5)",
        "chain(length=5, stop=confidence(threshold=0.3))",
        "static_tree",
        "static_tree('eagle1', stop=confidence(threshold=0.2))",
        "static_tree([[0], [1], [2], [1, 0], [2, 0], [2, 1], [2, 1, 0]])",
        "eagle2(depth=4, width=3, nodes=10)",
        "eagle2(depth=4, width=3, nodes=10, stop=confidence(threshold=0.2))",
    ],
)
def test_rounds_side_by_side_are_rounds_alone(spec: str, tables: Tensor) -> None:
    """Also where each may go to a depth of its own."""
    depths = torch.tensor([5, 1, 3, 2])
    policy = get_policy(spec)
    most = policy.plan(Context(0, depths, 99 * depths, depths, depths)).depth
    assert isinstance(most, int)
    together = run(policy, tables)
    ragged = run(policy, tables, depths.clamp(max=most))
    for number in range(4):
        alone = run(get_policy(spec), tables[number : number + 1])
        assert paths(together, number) == paths(alone, 0)
        cut = run(get_policy(spec), tables[number : number + 1], min(most, int(depths[number])))
        assert paths(ragged, number) == paths(cut, 0)
        assert max(map(len, paths(ragged, number))) <= depths[number]


def test_widths_are_what_the_budget_says(tables: Tensor) -> None:
    """Closed nodes cost no forward: a level is as wide as its open nodes."""
    cpu = torch.device("cpu")
    for spec, expected in (
        ("static_tree", [1, 4, 4, 1, 1]),
        ("eagle2(depth=3, width=4)", [1, 4, 4]),
        ("chain(length=2)", [1, 1]),
        # Certain of nothing: the root's children are drafted, and kept, and closed.
        ("eagle2(depth=3, width=4, stop=confidence(threshold=1.0))", [1]),
    ):
        policy = get_policy(spec)
        ones = torch.ones(1, dtype=torch.int64)
        budget = policy.plan(Context(0, ones, 99 * ones, ones, ones))
        proposer = Tables(tables[:1])
        tree = grow_tree(policy, proposer, budget, 1, cpu, RoundClock(cpu))
        assert proposer.widths == expected
        assert tree.num_levels == len(expected)


@pytest.mark.parametrize("width", [1, 3, 6])
@pytest.mark.parametrize("children", [1, 2])
def test_one_text_opens_what_it_does_among_many(width: int, children: int) -> None:
    """Also where a policy wants more nodes, or children, than the budget allows."""
    generator = torch.Generator().manual_seed(width)
    budget = Budget(depth=4, width=width, children=children)
    for _ in range(60):
        size = int(torch.randint(1, 7, (), generator=generator))
        frontier = 3 + torch.randperm(size, generator=generator).unsqueeze(0)
        wanted = torch.randint(0, 4, (1, size), generator=generator)
        if torch.rand((), generator=generator) < 0.3:
            wanted = wanted.clamp(max=1) * children
        alone = open_nodes(frontier, wanted, budget, 1, False)
        many = open_nodes(frontier.repeat(2, 1), wanted.repeat(2, 1), budget, 1, False)
        if alone is None or many is None:
            assert alone is many is None
            assert not wanted.any()
            continue
        assert torch.equal(alone[0], many[0][:1])
        for counts in (alone[1], None if many[1] is None else many[1][:1]):
            expected = wanted[wanted > 0][:width].clamp(max=children).unsqueeze(0)
            full = torch.full_like(expected, children)
            assert torch.equal(full if counts is None else counts, expected)


def test_a_policy_may_close_the_root(tables: Tensor) -> None:
    class Shut(Policy):
        def plan(self, context: Context) -> Budget:
            return Budget(depth=4)

        def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
            return torch.zeros_like(frontier)

    cpu = torch.device("cpu")
    proposer = Tables(tables[:1])
    tree = grow_tree(Shut(), proposer, Budget(depth=4), 1, cpu, RoundClock(cpu))
    assert (len(tree), tree.num_levels, proposer.widths) == (0, 0, [])


@pytest.mark.parametrize(
    ("depth", "remaining", "expected"),
    [
        (5, [9], 5),
        (5, [6], 5),
        (5, [5], 4),
        (5, [1], 0),
        (5, [9, 3, 1], [5, 2, 0]),
        (torch.tensor([5, 1, 4]), [9, 9, 2], [5, 1, 1]),
    ],
    ids=str,
)
def test_no_deeper_than_what_may_be_emitted(
    depth: int | Tensor, remaining: list[int], expected: int | list[int]
) -> None:
    budget = clamp_budget(Budget(depth=depth, width=2, nodes=7), torch.tensor(remaining))
    found = budget.depth.tolist() if isinstance(budget.depth, Tensor) else budget.depth
    assert found == expected
    assert (budget.width, budget.nodes) == (2, 7)
