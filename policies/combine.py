"""Stop rules made of stop rules: stop when all say so, or when any does.

Source: AdaEAGLE (Zhang et al. 2024, https://arxiv.org/abs/2412.18910) stops only when the predicted
length is reached and the path is unlikely: `all_of`. `transformers` checks its confidence and its
number of tokens side by side and obeys the first: `any_of`.
Differs from the sources: any rules, nested as deep as one likes; on trees they are combined node by
node, so a level is left as a whole only where the combination closes every node of it.
"""

from functools import reduce

import torch
from torch import Tensor

from adaeagle.policy import Composite, Context, StopRule
from adaeagle.tree import DraftTree


class _Combined(Composite, StopRule):
    """Several rules that see every node and every outcome, whatever the others say."""

    def __init__(self, *rules: StopRule) -> None:
        if not rules:
            raise ValueError("rules must hold at least one stop rule, got none")
        for rule in rules:
            if not isinstance(rule, StopRule):
                raise ValueError(f"rules must be stop rules such as confidence(), got {rule!r}")
        super().__init__(*rules)
        self.rules = rules

    def answers(self, tree: DraftTree, frontier: Tensor) -> list[Tensor]:
        """Which nodes each rule leaves open, [P, F] bool."""
        answers = [rule.should_continue(tree, frontier) for rule in self.rules]
        return [
            torch.as_tensor(answer, device=frontier.device).expand_as(frontier)
            for answer in answers
        ]


class AllOf(_Combined):
    """Closes a node only when all rules would: goes on as long as the most patient of them.

    Args:
        *rules: at least one.
    """

    def begin(self, context: Context) -> Tensor | None:
        wishes = [rule.begin(context) for rule in self.rules]
        known = [wish for wish in wishes if wish is not None]
        return reduce(torch.logical_or, known) if len(known) == len(wishes) else None

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return reduce(torch.logical_or, self.answers(tree, frontier))

    def prune(self, tree: DraftTree, chosen: Tensor) -> Tensor:
        return reduce(torch.logical_or, [rule.prune(tree, chosen) for rule in self.rules])


class AnyOf(_Combined):
    """Closes a node as soon as one rule would.

    Args:
        *rules: at least one.
    """

    def begin(self, context: Context) -> Tensor | None:
        wishes = [rule.begin(context) for rule in self.rules]
        known = [wish for wish in wishes if wish is not None]
        return reduce(torch.logical_and, known) if known else None

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return reduce(torch.logical_and, self.answers(tree, frontier))

    def prune(self, tree: DraftTree, chosen: Tensor) -> Tensor:
        return reduce(torch.logical_and, [rule.prune(tree, chosen) for rule in self.rules])
