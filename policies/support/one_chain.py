"""One text's chain on the host: the commonest draft, where a rule is asked after every token.

Between two forwards every call, into torch or NumPy, takes longer than the arithmetic of one node.
"""

import torch
from torch import Tensor

from adaeagle.tree import DraftTree

ANSWERS = {answer: torch.tensor([[answer]]) for answer in (False, True)}
"""Whether to go on from its last node, [1, 1], made once."""
NO_CHILDREN = torch.zeros(1, 1, dtype=torch.int64)
"""Of its last node, where it does not go on."""


def is_one_chain(tree: DraftTree, frontier: Tensor) -> bool:
    """Whether all that is drafted is one chain of one text, whose last node is asked about."""
    return (
        tree.num_rounds == frontier.shape[1] == 1
        and len(tree) == tree.num_levels
        and frontier.is_cpu
    )
