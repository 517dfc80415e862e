"""Chains of a length that the number of texts side by side decides.

Source: the table of draft lengths by batch size in vLLM
(https://github.com/vllm-project/vllm/issues/32374) and SGLang: a baseline for rules over texts.
Differs from them: none of theirs is built in; below its first line the table is the first line's.
"""

from collections.abc import Sequence

from torch import Tensor

from adaeagle.policy import Budget, Context, Policy
from adaeagle.tree import DraftTree


class BatchTable(Policy):
    """Drafts as many tokens a text as the table says.

    Args:
        lengths: pairs of a number of texts, ascending, and the length from it on; 0 drafts nothing.
    """

    scope = "batch"
    static_shape = True
    proposal = "draw"

    def __init__(self, lengths: Sequence[Sequence[int]] = ((1, 5), (8, 3), (32, 1))) -> None:
        sizes = [pair[0] for pair in lengths]
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError(f"lengths must be of numbers of texts that ascend, got {lengths}")
        if min(pair[1] for pair in lengths) < 0:
            raise ValueError(f"lengths must be >= 0, got {lengths}")
        self.lengths = [(size, length) for size, length in lengths]

    def plan(self, context: Context) -> Budget:
        num_texts = len(context.remaining)
        reached = [length for size, length in self.lengths if size <= num_texts]
        return Budget(depth=reached[-1] if reached else self.lengths[0][1])

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        return frontier.new_ones(frontier.shape)
