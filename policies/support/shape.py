"""What shapes share: a stop rule beside them, and how it closes nodes.

Differs from papers that speak of chains only: on a tree a rule closes single nodes, of those that
the shape would go on from. A closed node's place in the next draft forward stays empty; one level
deeper a beam fills up again, with the likeliest of what is left.
"""

from abc import abstractmethod
from dataclasses import replace

from torch import Tensor

from adaeagle.policy import Budget, Composite, Context, Policy, StopRule
from adaeagle.tree import DraftTree


class Shape(Composite, Policy):
    """A policy whose tree is cut short by an optional stop rule."""

    def __init__(self, stop: StopRule | None) -> None:
        if stop is not None and not isinstance(stop, StopRule):
            raise ValueError(f"stop must be a stop rule such as confidence(), got {stop!r}")
        super().__init__(*([] if stop is None else [stop]))
        self.stop = stop
        self.static_shape = stop is None

    @abstractmethod
    def limits(self, context: Context) -> Budget:
        """The limits of a round where nothing stops it."""

    @abstractmethod
    def children(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        """How many children each frontier node gets where nothing stops it, [P, F] int64."""

    def plan(self, context: Context) -> Budget:
        budget = self.limits(context)
        should_draft = None if self.stop is None else self.stop.begin(context)
        return (
            budget if should_draft is None else replace(budget, depth=budget.depth * should_draft)
        )

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        num_children = self.children(tree, frontier, budget)
        if self.stop is None or len(tree) == 0:
            return num_children
        return num_children * self.stop.should_continue(tree, frontier)

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        chosen = super().select(tree, budget)
        return chosen if self.stop is None or len(tree) == 0 else self.stop.prune(tree, chosen)
