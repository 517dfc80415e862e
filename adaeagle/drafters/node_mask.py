"""Which nodes of the current round a drafted node may attend to.

Shapes: P texts, W new nodes, E nodes run so far in this round.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


class NodeMask:
    """Grows with every draft forward of a round: each node sees its own path only."""

    def __init__(self) -> None:
        self._paths: Tensor | None = None  # [P, 1 + E, E] bool, row 0 the root's
        self._num_run = 0
        self.is_chain = True
        """Every forward of the round ran one node, so each hangs from the one run before it."""

    def reset(self) -> None:
        """Begin a round."""
        self._paths = None
        self._num_run = 0
        self.is_chain = True

    def extend(self, origins: Tensor, num_before: int) -> Tensor | None:
        """Allowed keys of new nodes: origins [P, W] → bool [P, 1, W, num_before + E + W].

        None where the nodes form a chain, each seeing everything before it.
        """
        num_texts, num_new = origins.shape
        self.is_chain = self.is_chain and num_new == 1
        if self.is_chain:
            self._num_run += 1
            return None
        if self._paths is None:  # a chain so far, if anything
            shape = (num_texts, self._num_run + 1, self._num_run)
            self._paths = torch.ones(shape, dtype=torch.bool, device=origins.device).tril(-1)
        own = torch.eye(num_new, dtype=torch.bool, device=origins.device)
        index = origins.unsqueeze(2).expand(-1, -1, self._num_run)
        rows = torch.cat((self._paths.gather(1, index), own.expand(num_texts, -1, -1)), dim=2)
        self._paths = torch.cat((F.pad(self._paths, (0, num_new)), rows), dim=1)
        self._num_run += num_new
        return F.pad(rows, (num_before, 0), value=True).unsqueeze(1)
