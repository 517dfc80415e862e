"""A tree that is the same in every round.

Source: EAGLE, Li et al. 2024, https://arxiv.org/abs/2401.15077 (its 25 nodes, called `mc_sim_7b_63`
in the official code), after Medusa, Cai et al. 2024, https://arxiv.org/abs/2401.10774.
Differs from the code: any tree whose ranks are complete works on the draft side, where the official
look-up reads some custom trees from the wrong row; drawn children keep the tree's form.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from adaeagle.policy import Budget, Context, ProposalMode, StopRule
from adaeagle.search_space import Int, SearchSpace, StopRuleChoice, Tree
from adaeagle.tree import DraftTree
from policies.support.shape import Shape

TreePath = tuple[int, ...]

TREES: dict[str, list[list[int]]] = {
    "eagle1": [
        *([rank] for rank in range(4)),
        *([0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0], [2, 1], [3, 0]),
        *([0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 2, 0], [0, 2, 1], [1, 0, 0]),
        *([0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]),
        *([0, 0, 0, 0, 0], [0, 0, 0, 0, 1]),
    ],
    # `mc_sim_7b_63` of Medusa: `medusa/model/medusa_choices.py` in
    # https://github.com/FasterDecoding/Medusa (Apache-2.0). EAGLE's tree of that name is another.
    "medusa_63": [
        *([rank] for rank in range(10)),
        *([0, rank] for rank in range(10)),
        *([1, rank] for rank in range(7)),
        *([2, 0], [2, 1], [2, 2], [3, 0], [3, 1], [4, 0], [5, 0], [6, 0], [7, 0], [8, 0], [9, 0]),
        *([0, 0, rank] for rank in range(10)),
        *([0, 1, 0], [0, 1, 1], [0, 1, 2], [0, 2, 0], [0, 2, 1]),
        *([0, rank, 0] for rank in range(3, 8)),
        *([1, 0, 0], [1, 0, 1], [2, 0, 0]),
        *([0, 0, 0, 0], [0, 0, 0, 1]),
    ],
}


def read_tree(tree: str | Sequence[Sequence[int]]) -> list[TreePath]:
    """The paths of a named tree, a JSON file or a list, sorted by depth and then rank.

    A path lists sibling ranks from the root down: [0, 2] is the third-best child of the best child.

    Raises:
        ValueError: a path's parent or earlier sibling is missing, or nothing has that name.
    """
    if isinstance(tree, str):
        if tree in TREES:
            tree = TREES[tree]
        elif Path(tree).is_file():
            tree = json.loads(Path(tree).read_text(encoding="utf-8"))
        else:
            raise ValueError(
                f"tree must be one of {', '.join(sorted(TREES))}, a list of paths or a JSON file, "
                f"got {tree!r}"
            )
    paths: list[TreePath] = sorted(
        {tuple(map(int, path)) for path in tree}, key=lambda path: (len(path), path)
    )
    if not paths or paths[0] == ():
        raise ValueError("tree must hold at least one path, and none that is empty")
    known = {(), *paths}
    for path in paths:
        if path[:-1] not in known:
            raise ValueError(f"tree must hold {list(path[:-1])}, the parent of {list(path)}")
        if path[-1] < 0 or (path[-1] > 0 and (*path[:-1], path[-1] - 1) not in known):
            raise ValueError(f"tree must hold the earlier siblings of {list(path)}")
    return paths


class StaticTree(Shape):
    """Drafts one fixed tree.

    Args:
        tree: a name (`eagle1`, `medusa_63`), a JSON file, or a list of paths of sibling ranks.
        stop: closes nodes early.
        proposal: at a temperature above 0, `draw` (as EAGLE-1 does) or `top_k`.
    """

    search_space: ClassVar[SearchSpace] = {
        "tree": Tree(tuple(TREES), nodes=Int(1, 64, log=True), depth=Int(1, 16)),
        "stop": StopRuleChoice(),
    }

    def __init__(
        self,
        tree: str | Sequence[Sequence[int]] = "eagle1",
        stop: StopRule | None = None,
        proposal: ProposalMode = "draw",
    ) -> None:
        if proposal not in ("draw", "top_k"):
            raise ValueError(f"proposal must be 'draw' or 'top_k', got {proposal!r}")
        super().__init__(stop)
        self.proposal = proposal
        paths = read_tree(tree)
        self.depth = len(paths[-1])
        self.nodes = len(paths)
        # Nodes by number: 0 the root, then the paths in order, and one past the end for padding.
        number = {path: place for place, path in enumerate([(), *paths])}
        counts = [0] * (len(number) + 1)
        for path in paths:
            counts[number[path[:-1]]] += 1
        self._num_children = torch.tensor(counts)
        self._child = torch.full((len(counts), max(counts)), len(number))
        for path in paths:
            self._child[number[path[:-1]], path[-1]] = number[path]
        opened = [0] * self.depth
        for path, place in number.items():
            if counts[place]:
                opened[len(path)] += 1
        self.width = tuple(opened)
        self._numbers = torch.empty(0)  # [P, 1 + N] which node the root and each row are

    def limits(self, context: Context) -> Budget:
        return Budget(
            depth=self.depth,
            width=self.width,
            nodes=self.nodes,
            children=self._child.shape[1],
        )

    def children(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        if len(tree) == 0:
            self._num_children = self._num_children.to(frontier.device)
            self._child = self._child.to(frontier.device)
            # One column in front for the root, so that row -1 + 1 is its place.
            self._numbers = torch.zeros_like(frontier)
            return self._num_children[self._numbers]
        parents = tree.parents.gather(1, frontier)
        # Beside wider trees there are more ranks, all of them padding here.
        ranks = tree.ranks.gather(1, frontier).clamp(max=self._child.shape[1] - 1)
        numbers = self._child[self._numbers.gather(1, parents + 1), ranks]
        self._numbers = torch.cat((self._numbers, numbers), dim=1)
        return self._num_children[numbers]
