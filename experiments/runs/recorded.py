"""A policy that is listened to: every round's verified tree and what became of its nodes."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from adaeagle.identity import Identify
from adaeagle.policy import Budget, Context, Outcome, Policy
from adaeagle.tree import DraftTree


class Recorded(Policy):
    """Decides as `policy` does, and passes every round's outcome to `listen`.

    What is learned is the policy's own. The core builds an outcome each round, also for a policy
    that learns nothing, so seconds measured under this wrapper are not the policy's.

    Args:
        policy: whose decisions these are.
        listen: called after each verification.
    """

    learns = True

    def __init__(self, policy: Policy, listen: Callable[[Outcome], None]) -> None:
        self.policy = policy
        self.listen = listen
        self.proposal = policy.proposal
        self.static_shape = policy.static_shape
        self.needs_entropy = policy.needs_entropy
        self.num_confidences = policy.num_confidences

    def check(self, identify: Identify) -> None:
        self.policy.check(identify)

    def reset(self) -> None:
        self.policy.reset()

    def plan(self, context: Context) -> Budget:
        return self.policy.plan(context)

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        return self.policy.expand(tree, frontier, budget)

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        return self.policy.select(tree, budget)

    def observe(self, outcome: Outcome) -> None:
        if self.policy.learns:
            self.policy.observe(outcome)
        self.listen(outcome)

    def state_dict(self) -> dict[str, Any]:
        return self.policy.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state)
