"""Stop rules made of stop rules: stop when all say so, or when any does.

Source: AdaEAGLE (Zhang et al. 2024, https://arxiv.org/abs/2412.18910) stops only when the predicted
length is reached and the path is unlikely: `all_of`. `transformers` checks its confidence and its
number of tokens side by side and obeys the first: `any_of`.
Differs from the sources: any rules, nested as deep as one likes; on trees they are combined node by
node, so a level is left as a whole only where the combination closes every node of it.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from adaeagle.identity import Identify
from adaeagle.policy import Context, Outcome, StopRule
from adaeagle.tree import DraftTree


class _Combined(StopRule):
    """Several rules that see every node and every outcome, whatever the others say."""

    def __init__(self, *rules: StopRule) -> None:
        if not rules:
            raise ValueError("rules must hold at least one stop rule, got none")
        for rule in rules:
            if not isinstance(rule, StopRule):
                raise ValueError(f"rules must be stop rules such as confidence(), got {rule!r}")
        self.rules = rules
        self.learns = any(rule.learns for rule in rules)
        self.needs_entropy = any(rule.needs_entropy for rule in rules)
        self.num_confidences = max(rule.num_confidences for rule in rules)

    def answers(self, tree: DraftTree, frontier: Tensor) -> list[Tensor]:
        """What each rule would go on from, [P, F] bool."""
        return [rule.should_continue(tree, frontier) for rule in self.rules]

    def check(self, identify: Identify) -> None:
        for rule in self.rules:
            rule.check(identify)

    def reset(self) -> None:
        for rule in self.rules:
            rule.reset()

    def observe(self, outcome: Outcome) -> None:
        for rule in self.rules:
            if rule.learns:
                rule.observe(outcome)

    def state_dict(self) -> dict[str, Any]:
        states = {str(place): rule.state_dict() for place, rule in enumerate(self.rules)}
        return {place: state for place, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for place, rule_state in state.items():
            self.rules[int(place)].load_state_dict(rule_state)


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

    def keep(self, tree: DraftTree, chosen: Tensor) -> Tensor:
        kept = [rule.keep(tree, chosen) for rule in self.rules]
        if any(part is chosen for part in kept):  # the usual answer: there is no more than all
            return chosen
        return reduce(torch.logical_or, kept)


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

    def keep(self, tree: DraftTree, chosen: Tensor) -> Tensor:
        kept = [rule.keep(tree, chosen) for rule in self.rules]
        return reduce(torch.logical_and, [part for part in kept if part is not chosen], chosen)
