"""Where texts go through drafts, against a walk from node to node."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from adaeagle.policy import NOTHING
from adaeagle.trace.proposer import RecordedProposer
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from adaeagle.tree import DraftTree

MakeText = Callable[..., RecordedText]
NUM_RANKS = 3


@pytest.fixture
def trace(make_text: MakeText) -> Trace:
    return Trace([make_text(name, num_new=40, num_ranks=NUM_RANKS) for name in "ab"], 50)


def drafted(
    trace: Trace, rows: torch.Tensor, width: int, num_ranks: int, seed: int
) -> tuple[DraftTree, RecordedProposer]:
    """Three levels; below the first random nodes are run, of those that were recorded."""
    generator = torch.Generator().manual_seed(seed)
    proposer, children = trace.recorded(rows, NOTHING), trace.envelope.children
    tree, opened = DraftTree.empty(len(rows), "cpu"), torch.full((len(rows), 1), -1)
    nodes = trace.envelope.roots[rows].view(-1, 1)
    counts = None
    for _ in range(3):
        level = proposer.propose(tree, opened, num_ranks, counts)
        num_before = len(tree)
        tree = tree.grow(replace(level, num_children=counts))
        last = children[nodes.clamp(min=0)][:, :, :num_ranks].flatten(1)
        order = torch.rand(last.shape, generator=generator).argsort(1)[:, :width].sort(1).values
        opened, nodes = order + num_before, last.gather(1, order)
        is_open = (nodes >= 0) & tree.valid.gather(1, opened)
        counts = is_open * num_ranks
    return tree, proposer


def walked(tree: DraftTree, row: int, said: list[int]) -> list[int]:
    """The path of a round, by looking at every node of each level."""
    path, above, first = [], -1, 0
    for number, (num_parents, num_ranks) in enumerate(tree.levels):
        last = first + num_parents * num_ranks
        found = [
            node
            for node in range(first, last)
            if tree.valid[row, node]
            and tree.parents[row, node] == above
            and tree.token_ids[row, node] == said[number]
        ]
        above = found[0] if found else -2
        path.append(max(above, -1))
        first = last
    return path


@pytest.mark.parametrize(("width", "num_ranks"), [(1, 1), (2, 2), (4, 3), (1, 3)])
def test_paths_are_those_of_a_walk(trace: Trace, width: int, num_ranks: int) -> None:
    rows = torch.arange(len(trace.positions)).flip(0)[3:60]
    depths = set()
    for seed in range(5):
        tree, proposer = drafted(trace, rows, width, num_ranks, seed)
        said = trace.positions.following(rows, tree.num_levels).tolist()
        expected = [walked(tree, row, tokens) for row, tokens in enumerate(said)]
        found = torch.from_numpy(trace.paths.through(rows, proposer.runs, tree.levels))
        found = found.masked_fill(~tree.valid.gather(1, found.clamp(min=0)), -1)
        assert found.tolist() == expected
        depths |= {sum(node >= 0 for node in path) for path in expected}
    assert depths >= {0, 1, 2}


def test_drafts_that_are_added_later_are_followed_too(trace: Trace) -> None:
    """A text goes on through a node that was not run: at first nowhere, then where it was run."""
    envelope, positions = trace.envelope, trace.positions
    found = None
    for row in range(0, len(positions), 2):
        root, said = int(envelope.roots[row]), positions.following(torch.tensor([row]), 2)[0]
        ranks = (envelope.token_ids[root] == said[0]).nonzero().flatten().tolist()
        if ranks and said[1] >= 0 and envelope.children[root, ranks[0]] < 0:
            found = row, root, ranks[0], said
            break
    assert found is not None
    row, root, rank, said = found
    rows, levels = torch.tensor([row]), ((1, NUM_RANKS), (1, NUM_RANKS))

    def path() -> list[int]:
        child = envelope.children[root, rank].view(1, 1).numpy()
        runs = [torch.tensor([[root]]).numpy(), child]
        through: list[list[int]] = trace.paths.through(rows, runs, levels).tolist()
        return through[0]

    assert path() == [rank, -1]
    tokens = torch.tensor([[0, 0, int(said[1])]])
    envelope.add(
        rows,
        torch.tensor([root]),
        torch.tensor([rank]),
        tokens,
        torch.zeros(1, NUM_RANKS),
        torch.zeros(1),
    )
    last = tokens[0].tolist().index(int(said[1]))
    for _ in range(3):  # while it grows, when it no longer does, and looked up
        assert path() == [rank, NUM_RANKS + last]


def test_nothing_follows_the_end_of_a_text(make_text: MakeText) -> None:
    """What follows a text is told as -1, and so is a child that was not recorded."""
    trace = Trace([make_text("a", num_new=4, num_ranks=NUM_RANKS)], 50)
    envelope, rows = trace.envelope, torch.tensor([len(trace.positions) - 1])
    roots, said = envelope.roots[rows], trace.positions.following(rows, 2)
    assert said[0, 0] >= 0 > said[0, 1]
    unknown, log_probs = torch.full((1, NUM_RANKS), -1), torch.zeros(1, NUM_RANKS)
    envelope.replace(roots, said[:, :1].expand(-1, NUM_RANKS), log_probs)
    child = envelope.add(rows, roots, torch.tensor([0]), unknown, log_probs, torch.zeros(1))
    runs = [node.view(1, 1).numpy() for node in (roots, child)]
    levels = ((1, NUM_RANKS), (1, NUM_RANKS))
    assert trace.paths.through(rows, runs, levels).tolist() == [[0, -1]]
