"""Copy where the text repeats itself for long enough, else draft as another policy does.

Source: SAM-Decoding, Hu et al. 2024, https://arxiv.org/abs/2411.10666: a round drafts the
continuation of the longest suffix where 5 tokens or more match, else with its other drafter.
Differs from the paper: the other draft is any policy's; no corpus of other texts is searched.

Shapes: P rounds side by side, N drafted nodes, F frontier nodes, W opened nodes.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from adaeagle.policy import Budget, Context, Needs, Policy, PolicyWrapper
from adaeagle.search_space import Int, SearchSpace
from adaeagle.tree import UNLIKELY, DraftTree, Level
from policies.eagle2 import Eagle2


class ByMatchLength(PolicyWrapper):
    """Takes either the chain of a merged drafter's look-up or the draft of its network.

    Args:
        policy: drafts where nothing long enough matches; None: `eagle2`.
        least: score from which the look-up is taken; tokens matched of `suffix(score='length')`.
        length: most tokens copied.
    """

    needs = Needs(scores=True)
    search_space: ClassVar[SearchSpace] = {"least": Int(1, 12), "length": Int(4, 40)}

    def __init__(self, policy: Policy | None = None, least: float = 5, length: int = 16) -> None:
        if length < 1:
            raise ValueError(f"length must be >= 1, got {length}")
        super().__init__(Eagle2() if policy is None else policy)
        self.static_shape = False
        self.least = least
        self.length = length
        self._inner = Budget(depth=0)
        self._copies = torch.empty(0)  # [P, 1] bool: which rounds take the look-up's draft

    def plan(self, context: Context) -> Budget:
        self._inner = super().plan(context)
        # Where nothing drafts beside a look-up, it is always taken.
        self._copies = torch.ones(len(context.remaining), 1, dtype=torch.bool)
        deepest = torch.as_tensor(self._inner.depth).clamp(min=self.length)
        return replace(self._inner, depth=deepest.expand(len(context.remaining)))

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        if len(tree) == 0:
            return super().expand(tree, frontier, budget)
        copied = (tree.ranks.gather(1, frontier) == 0).long()
        drafted = super().expand(tree, frontier, budget) * self._is_drafted(tree).gather(
            1, frontier
        )
        depth = torch.as_tensor(self._inner.depth, device=frontier.device).view(-1, 1)
        copies = self._copies.to(frontier.device)
        return torch.where(copies, copied, drafted * (tree.num_levels < depth))

    def runs_network(self, tree: DraftTree, rows: Tensor, found: Level) -> Tensor:
        if len(tree) == 0:
            assert found.scores is not None
            assert found.num_children is not None
            self._copies = (found.num_children > 0) & (found.scores[..., 0] >= self.least)
        return ~self._copies

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        chosen = super().select(tree, self._inner) & self._is_drafted(tree)
        return torch.where(self._copies.to(chosen.device), tree.valid & (tree.ranks == 0), chosen)

    @staticmethod
    def _is_drafted(tree: DraftTree) -> Tensor:
        return tree.log_probs > UNLIKELY
