"""How logits become a distribution.

Temperature, top-k and top-p, alike for plain and drafted text.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

SamplingMode = Literal["rejection", "coupled"]
SAMPLING_MODES = ("rejection", "coupled")

LOWEST = 1e-30
"""Temperatures below are taken for this one, at which the likeliest token has all probability; by a
lower one float32 logits overflow."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: keep the smallest set of tokens with at least this probability; 1 keeps all.
        top_k: keep this many tokens; 0 keeps all.
        mode: how drafted tokens are accepted at a temperature above 0. Both keep the target's
            distribution; with `coupled` the seed alone decides the text, whatever drafts, and less
            is accepted.
        seed: of everything random in one text.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    mode: SamplingMode = "rejection"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0, got {self.top_k}")
        if self.mode not in SAMPLING_MODES:
            raise ValueError(f"sampling must be one of {SAMPLING_MODES}, got {self.mode!r}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def is_coupled(self) -> bool:
        return self.mode == "coupled" and not self.is_greedy

    def log_probs(self, logits: Tensor) -> Tensor:
        """The processed distribution of every row, float32: [..., V] → [..., V] natural logs."""
        rows = logits.float().flatten(0, -2)
        no_ids = torch.empty(0, dtype=torch.int64)  # these warpers look at scores alone
        processed = self._warpers()(no_ids, rows)  # type: ignore[arg-type]
        return processed.log_softmax(-1).view(logits.shape)

    def _warpers(self) -> LogitsProcessorList:
        warpers = LogitsProcessorList()
        if self.temperature not in (0.0, 1.0):
            warpers.append(TemperatureLogitsWarper(max(self.temperature, LOWEST)))
        if self.top_k > 0:
            warpers.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            warpers.append(TopPLogitsWarper(self.top_p))
        return warpers
