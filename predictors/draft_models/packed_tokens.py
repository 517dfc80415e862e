"""Token streams on disk, cut into windows of one length for language-model training."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from adaeagle.ranges import at_least


def write_stream(documents: Iterable[list[int]], path: Path) -> int:
    """Writes token ids of `documents` end to end, a `.npy` of uint32; returns how many."""
    tokens = np.concatenate([np.asarray(document, dtype=np.uint32) for document in documents])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, tokens)
    return len(tokens)


class PackedTokens(Dataset[Tensor]):
    """Windows of `window` consecutive tokens of a stream, memory-mapped.

    Documents run on into each other: the boundary is marked by their own begin token, and a
    window may hold the end of one and the start of the next.
    """

    def __init__(self, path: Path, window: int) -> None:
        at_least(2, window=window)
        self._tokens = np.load(path, mmap_mode="r")
        if len(self._tokens) < window:
            raise ValueError(
                f"{path} must hold at least window={window} tokens, has {len(self._tokens)}"
            )
        self.window = window

    def __len__(self) -> int:
        return len(self._tokens) // self.window

    def __getitem__(self, index: int) -> Tensor:
        """One window, [window] int64."""
        start = index * self.window
        return torch.from_numpy(self._tokens[start : start + self.window].astype(np.int64))
