"""Stop where the draft model's distribution is spread out.

Source: SVIP, Zhang et al. 2024, https://arxiv.org/abs/2411.18462: the root of the draft's entropy
bounds what the target will reject, so drafting stops when sqrt(0.15 H) > 0.3 (constants as in its
code, https://github.com/Geralt-Targaryen/SVIP), which is H > 0.6 nats.
Differs from the code: no limit of 40 tokens beside the shape's own; on trees, a node is judged by
the distribution it was proposed from, so siblings are closed together.
"""

from typing import ClassVar

from torch import Tensor

from adaeagle.policy import Needs, StopRule
from adaeagle.ranges import above, at_least
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree


class Entropy(StopRule):
    """Goes on from a node while sqrt(scale * entropy) is at most `threshold`.

    The entropy, in nats, is that of the distribution the node was proposed from: the draft's own
    where children are its most likely tokens, the processed one where they are drawn.

    Args:
        threshold: at least 0.
        scale: above 0.
    """

    needs = Needs(entropy=True)

    search_space: ClassVar[SearchSpace] = {"threshold": Float(0.05, 1.0)}  # `scale` only scales it

    def __init__(self, threshold: float = 0.3, scale: float = 0.15) -> None:
        at_least(0, threshold=threshold)
        above(0, scale=scale)
        self.threshold = threshold
        self.scale = scale

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        assert tree.entropies is not None
        return (self.scale * tree.entropies.gather(1, frontier)).sqrt() <= self.threshold
