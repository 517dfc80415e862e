"""No drafting: one token a target forward, the baseline of every comparison.

Source: plain autoregressive decoding.
Differs from the source: nothing; it is the same round with depth 0.
"""

from adaeagle.policy import Budget, Context, Policy


class Vanilla(Policy):
    """Never drafts."""

    drafts = False
    static_shape = True

    def plan(self, context: Context) -> Budget:
        return Budget(depth=0)
