"""Stop where the drafter's own score of its candidates is low.

Source: SAM-Decoding (Hu et al. 2024, https://arxiv.org/abs/2411.10666), which copies where 5 tokens
or more match, and SuffixDecoding (Oliaro et al. 2024, https://arxiv.org/abs/2411.04975), which has
nodes that continue a tenth of all occurrences or more.
Differs from them: one rule for any score; where nothing reaches it a round drafts nothing, whereas
SAM-Decoding asks another drafter.
"""

from torch import Tensor

from adaeagle.policy import Needs, StopRule
from adaeagle.tree import DraftTree


class Score(StopRule):
    """Goes on from a node, and verifies it, while its drafter's score of it is at least `least`.

    Args:
        least: in the drafter's unit: tokens matched for `ngram`, a share for `suffix`.
    """

    needs = Needs(scores=True)

    def __init__(self, least: float = 2.0) -> None:
        self.least = least

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return self._scores(tree).gather(1, frontier) >= self.least

    def prune(self, tree: DraftTree, chosen: Tensor) -> Tensor:
        # A node below the least has no children, so what is left is closed under parents.
        return chosen & (self._scores(tree) >= self.least)

    @staticmethod
    def _scores(tree: DraftTree) -> Tensor:
        assert tree.scores is not None
        return tree.scores
