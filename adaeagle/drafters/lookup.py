"""What drafters that look tokens up share: no network, an index of each text, children ready-made.

Shapes: P texts side by side, A tokens, W nodes, C children of each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from adaeagle.drafters.base import Candidates, Drafter, DraftSession, Proposal

Child = tuple[int, float]
"""A token and the drafter's score of it."""


State = TypeVar("State")


class TextIndex(ABC, Generic[State]):
    """What is known of one text, and where each drafted node stands in it.

    A state is whatever the index needs to find a node's children. It is read in the round it was
    made in, before the text grows.
    """

    @abstractmethod
    def append(self, token_id: int) -> None:
        """Takes in the text's next token."""

    @abstractmethod
    def root(self) -> State | None:
        """Where the whole text stands; None: nothing is known to follow it."""

    @abstractmethod
    def children(self, state: State) -> list[Child]:
        """What may follow, distinct tokens, best first."""

    @abstractmethod
    def after(self, state: State, token_id: int) -> State | None:
        """Where the child with this token stands; None: nothing is known to follow it."""


MakeIndex = Callable[[], TextIndex[Any]]
Node = tuple[Any, list[Child]]
"""Where a draft row stands, and what was proposed after it."""


class LookupSession(DraftSession):
    """Texts side by side, each with an index of its own.

    Args:
        prompts: of each text at least its first token.
        make_index: an empty index.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], make_index: MakeIndex) -> None:
        self._make_index = make_index
        self.indexes = [self._begun(prompt_ids[0]) for prompt_ids in prompts]
        self._nodes: list[list[Node]] = [[] for _ in prompts]  # of each text, by draft row

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        for index, new_ids, count in zip(self.indexes, token_ids.tolist(), counts, strict=True):
            for token_id in new_ids[:count]:
                index.append(token_id)
        self._nodes = [[_node(index, index.root())] for index in self.indexes]
        return propose(self._nodes, token_ids.device)

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        added = [
            [
                _child(index, nodes[row], token_id)
                for token_id, row in zip(new_ids, rows, strict=True)
            ]
            for index, nodes, new_ids, rows in zip(
                self.indexes, self._nodes, token_ids.tolist(), origins.tolist(), strict=True
            )
        ]
        self._nodes = [nodes + new for nodes, new in zip(self._nodes, added, strict=True)]
        return propose(added, token_ids.device)

    def replace(self, row: int, prompt_ids: Sequence[int]) -> None:
        self.indexes[row] = self._begun(prompt_ids[0])

    def keep(self, rows: Sequence[int]) -> None:
        self.indexes = [self.indexes[row] for row in rows]

    def _begun(self, token_id: int) -> TextIndex[Any]:
        index = self._make_index()
        index.append(token_id)
        return index


class LookupPrefixes:
    """A known text, drafted after as it grew: see `PrefixSession`.

    Args:
        token_ids: the text.
        make_index: an empty index.
    """

    def __init__(self, token_ids: Tensor, make_index: MakeIndex) -> None:
        self._token_ids: list[int] = token_ids.tolist()
        self._make_index = make_index
        self._index, self._num_tokens = make_index(), 0
        self._nodes: list[Node] = []

    @property
    def num_run(self) -> int:
        return len(self._nodes)

    def reset(self) -> None:
        self._nodes = []

    def roots(self, lengths: Tensor) -> Proposal:
        return self._proposed(lengths, [None] * len(lengths))

    def extend_prefixes(self, token_ids: Tensor, parents: Tensor, lengths: Tensor) -> Proposal:
        above = zip(parents.tolist(), token_ids.tolist(), strict=True)
        return self._proposed(lengths, list(above))

    def _proposed(self, lengths: Tensor, nodes: list[tuple[int, int] | None]) -> Proposal:
        """What follows nodes, each a parent and a token, or None for a root."""
        found: dict[int, Node] = {}
        # In the order of the text, so that the index grows with it once.
        for place in lengths.argsort(stable=True).tolist():
            index = self._index_of(int(lengths[place]))
            node = _node(index, index.root())
            if (added := nodes[place]) is not None:
                parent, token_id = added
                node = _child(index, node if parent < 0 else self._nodes[parent], token_id)
            found[place] = node
        new = [found[place] for place in range(len(nodes))]
        self._nodes += [node for node, added in zip(new, nodes, strict=True) if added is not None]
        return propose([new], lengths.device)

    def _index_of(self, num_tokens: int) -> TextIndex[Any]:
        """The index as it was after the text's first tokens."""
        if num_tokens < self._num_tokens:
            self._index, self._num_tokens = self._make_index(), 0
        for token_id in self._token_ids[self._num_tokens : num_tokens]:
            self._index.append(token_id)
        self._num_tokens = num_tokens
        return self._index


class LookupDrafter(Drafter):
    """A drafter of which only the index is its own.

    Args:
        name: what results call it.
        score: what its scores are.
        make_index: an empty index.
    """

    def __init__(self, name: str, score: str, make_index: MakeIndex) -> None:
        self.name, self.score = name, score
        self._make_index = make_index

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> LookupSession:
        return LookupSession(prompts, self._make_index)

    def open(self, token_ids: Tensor, features: Tensor | None) -> LookupPrefixes:
        return LookupPrefixes(token_ids, self._make_index)


def _node(index: TextIndex[Any], state: Any) -> Node:
    return state, [] if state is None else index.children(state)


def _child(index: TextIndex[Any], parent: Node, token_id: int) -> Node:
    """A drafted node. One that was never proposed is padding, and nothing follows it."""
    state, children = parent
    is_known = any(token == token_id for token, _ in children)
    return _node(index, index.after(state, token_id) if is_known else None)


def propose(nodes: Sequence[Sequence[Node]], device: torch.device) -> Proposal:
    """The children of W nodes of each of P texts, as tensors."""
    rows = [children for of_text in nodes for _, children in of_text]
    most, shape = max(1, *map(len, rows)), (len(nodes), len(nodes[0]))
    padded = [[*children, *[(0, 0.0)] * (most - len(children))] for children in rows]
    token_ids, scores = (
        torch.tensor([[child[part] for child in row] for row in padded], device=device, dtype=dtype)
        for part, dtype in ((0, torch.int64), (1, torch.float32))
    )
    counts = torch.tensor([len(children) for children in rows], device=device)
    return Proposal(
        candidates=Candidates(
            token_ids.view(*shape, most), counts.view(shape), scores.view(*shape, most)
        ),
        num_forwards=0,
    )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuses an argument that is none of its choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
