"""What a profile measures: shapes of rounds, and the grid of its table."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from adaeagle.policy import Budget

SPAN = 64
"""Tokens decoded around a context of the grid: half of them before it."""

FIRST_CONTEXT, MOST_CONTEXT = 64, 4096
"""Where contexts begin and end unless they are given; each is four times the one before."""

MOST_FORWARDS = 8
"""Of a tree, unless its nodes need more."""

CHAIN_SHARE = 3
"""How often a chain is drawn for each tree: trees share their cells, chains do not."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one round shall run."""

    widths: tuple[int, ...]  # nodes of each draft forward, the root's first
    children: int  # of each of them; 1: a chain
    nodes: int  # drafted tokens verified

    @classmethod
    def chain(cls, length: int) -> "Shape":
        return cls((1,) * length, 1, length)

    @classmethod
    def beam(cls, width: int, depth: int, nodes: int) -> "Shape":
        """Of one width throughout; a beam of 1 opens two nodes once, so that it needs masks."""
        children = max(width, 2)
        return cls((1, children, *(width,) * (depth - 2)), children, nodes)

    @property
    def is_tree(self) -> bool:
        return self.children > 1

    @property
    def num_drafted(self) -> int:
        return self.children * sum(self.widths)

    @property
    def budget(self) -> Budget:
        return Budget(len(self.widths), self.widths or 1, self.nodes, self.children)


def least_depth(width: int, nodes: int) -> int:
    """Draft forwards until a beam holds so many nodes and has run a forward of its width."""
    depth = 3
    while Shape.beam(width, depth, nodes).num_drafted < nodes:
        depth += 1
    return depth


@dataclass(frozen=True, slots=True)
class Grid:
    """Where rounds are measured; each list ascends."""

    contexts: tuple[int, ...] = (FIRST_CONTEXT,)  # tokens
    widths: tuple[int, ...] = (1, 2, 4, 6, 10)  # of beams
    nodes: tuple[int, ...] = (1, 2, 4, 8, 16, 24, 32, 48, 64)  # of beams, verified
    lengths: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8, 12, 16)  # of chains

    def __post_init__(self) -> None:
        for name in ("contexts", "widths", "nodes", "lengths"):
            values = getattr(self, name)
            least = 0 if name == "lengths" else 1
            if not values or values[0] < least or list(values) != sorted(set(values)):
                raise ValueError(f"{name} must ascend from {least} or more, got {values}")
        if self.lengths[0] != 0 or self.lengths[-1] < 3:
            raise ValueError(f"lengths must hold 0 and go beyond 2, got {self.lengths}")

    def beams(self) -> list[tuple[int, int]]:
        """Pairs of width and nodes; each width and each number of nodes is in one at least."""
        pairs = {
            (width, nodes)
            for width in self.widths
            for nodes in self.nodes
            if least_depth(width, nodes) <= MOST_FORWARDS
        }
        pairs |= {(width, self.nodes[0]) for width in self.widths}
        pairs |= {(self.widths[-1], nodes) for nodes in self.nodes}
        return sorted(pairs)

    @property
    def deepest(self) -> int:
        """Most draft forwards of a round."""
        depths = (least_depth(width, nodes) for width, nodes in self.beams())
        return max(self.lengths[-1], MOST_FORWARDS, *depths)

    def room(self, max_length: int) -> tuple[int, int]:
        """The least and the greatest context that a target of `max_length` tokens leaves."""
        return SPAN // 2 + 1, max_length - SPAN // 2 - self.deepest - 2

    def spread(self, max_length: int) -> "Grid":
        """The same with contexts up to what a target of `max_length` tokens leaves.

        Seconds are nearly linear in context, so that few will do.
        """
        most = min(MOST_CONTEXT, self.room(max_length)[1])
        contexts = [FIRST_CONTEXT]
        while 4 * contexts[-1] <= most:
            contexts.append(4 * contexts[-1])
        if most > 1.5 * contexts[-1]:
            contexts.append(most)
        return replace(self, contexts=tuple(min(context, most) for context in contexts))

    def deck(self, draws: random.Random) -> list[Shape]:
        """Every shape, in a random order and trees of random depth."""
        shapes = [Shape.chain(length) for length in self.lengths] * CHAIN_SHARE
        for width, nodes in self.beams():
            least = least_depth(width, nodes)
            depth = draws.randint(least, max(least, MOST_FORWARDS))
            shapes.append(Shape.beam(width, depth, nodes))
        draws.shuffle(shapes)
        return shapes

    def cells(self) -> Iterator[tuple[str, int]]:
        """Every table and size that rounds give samples of, at each context."""
        seconds = sorted({max(width, 2) for width in self.widths})  # see `Shape.beam`
        kinds = (
            ("chain", [1], [1], self.lengths),
            ("tree", seconds, self.widths, self.nodes),
        )
        for kind, second, later, nodes in kinds:
            yield f"{kind}.first", 1
            yield from ((f"{kind}.second", width) for width in second)
            yield from ((f"{kind}.next", width) for width in later)
            yield from ((f"{kind}.verify", count) for count in nodes)
            yield from ((f"{kind}.other", count) for count in nodes)
