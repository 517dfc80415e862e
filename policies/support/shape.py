"""What shapes share: a stop rule beside them, and how it closes nodes.

Differs from papers that speak of chains only: on a tree a rule closes single nodes, of those that
the shape would go on from. A closed node's place in the next draft forward stays empty; one level
deeper a beam fills up again, with the likeliest of what is left.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor

from adaeagle.identity import Identify
from adaeagle.policy import Budget, Context, Outcome, Policy, StopRule
from adaeagle.tree import DraftTree
from policies.support.one_chain import ANSWERS, NO_CHILDREN


class Shape(Policy):
    """A policy whose tree is cut short by an optional stop rule."""

    def __init__(self, stop: StopRule | None) -> None:
        if stop is not None and not isinstance(stop, StopRule):
            raise ValueError(f"stop must be a stop rule such as confidence(), got {stop!r}")
        self.stop = stop
        self.learns = stop is not None and stop.learns
        self.needs_entropy = stop is not None and stop.needs_entropy
        self.num_confidences = 0 if stop is None else stop.num_confidences
        self.static_shape = stop is None

    @abstractmethod
    def limits(self, context: Context) -> Budget:
        """The limits of a round where nothing stops it."""

    @abstractmethod
    def children(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        """How many children each frontier node gets where nothing stops it, [P, F] int64."""

    def plan(self, context: Context) -> Budget:
        budget = self.limits(context)
        is_worth = None if self.stop is None else self.stop.begin(context)
        if is_worth is None or (len(is_worth) == 1 and bool(is_worth)):
            return budget
        return replace(budget, depth=budget.depth * is_worth)

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        num_children = self.children(tree, frontier, budget)
        if self.stop is None or len(tree) == 0:
            return num_children
        is_open = self.stop.should_continue(tree, frontier)
        # A text's chain is asked about after every token, and going on is the usual answer.
        if is_open is ANSWERS[True]:
            return num_children
        if is_open.numel() == 1 and is_open.is_cpu:
            return num_children if is_open.item() else NO_CHILDREN
        return num_children * is_open

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        chosen = super().select(tree, budget)
        return chosen if self.stop is None or len(tree) == 0 else self.stop.keep(tree, chosen)

    def check(self, identify: Identify) -> None:
        if self.stop is not None:
            self.stop.check(identify)

    def reset(self) -> None:
        if self.stop is not None:
            self.stop.reset()

    def observe(self, outcome: Outcome) -> None:
        if self.stop is not None:
            self.stop.observe(outcome)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.stop is None else self.stop.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.stop is not None:
            self.stop.load_state_dict(state)
