"""A policy whose rounds are listened to: each verified tree, and which of its nodes fell."""

from collections.abc import Callable

from adaeagle.policy import Outcome, Policy, PolicyWrapper


class Recorded(PolicyWrapper):
    """Decides as `policy` does, and passes every round's outcome to `listen`.

    What is learned is the policy's own. The core builds an outcome each round, also for a policy
    that learns nothing, so seconds measured under this wrapper are not the policy's.

    Args:
        policy: whose decisions these are.
        listen: called after each verification.
    """

    def __init__(self, policy: Policy, listen: Callable[[Outcome], None]) -> None:
        super().__init__(policy)
        self.learns = True
        self.listen = listen

    def observe(self, outcome: Outcome) -> None:
        super().observe(outcome)
        self.listen(outcome)
