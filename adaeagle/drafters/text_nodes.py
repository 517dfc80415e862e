"""Which keys a node may attend to where drafts of many positions of one text share a cache.

Shapes: Q new nodes, E nodes run so far, S tokens (or pairs) of the text in the cache.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


class TextNodes:
    """Nodes hanging from different positions of one text: each sees its prefix and its own path."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drops all nodes."""
        self._paths = torch.zeros(0, 0, dtype=torch.bool)
        self._depths = torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._depths)

    def extend(self, parents: Tensor, prefixes: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
        """Adds nodes and says what each sees.

        Args:
            parents: [Q] int64 nodes run before, in the order they were run; -1 for the root.
            prefixes: [Q] int64, how many keys of the text lie before each node's root.
            num_keys: S.

        Returns:
            depths [Q] int64, 1 for the root's children, and bool [Q, S + E + Q].
        """
        num_new, num_before = len(parents), len(self)
        depths = F.pad(self._depths, (1, 0))[parents + 1] + 1
        # A row of nothing in front, for the root.
        paths = F.pad(self._paths, (0, 0, 1, 0))[parents + 1]
        rows = torch.cat((paths, torch.eye(num_new, dtype=torch.bool)), dim=1)
        self._paths = torch.cat((F.pad(self._paths, (0, num_new)), rows))
        self._depths = torch.cat((self._depths, depths))
        assert rows.shape[1] == num_before + num_new
        text = torch.arange(num_keys) < prefixes.unsqueeze(1)
        return depths, torch.cat((text, rows), dim=1)
