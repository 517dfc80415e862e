"""What earlier rounds of a text accepted, beside what their drafts promised.

It is known before a round drafts, costs nothing, and is gathered alike from live rounds and from
recorded ones.

Shapes: P texts side by side, N drafted tokens of a round, S numbers of a text.
"""

import torch
from torch import Tensor

from adaeagle.policy import Outcome

NAMES = ("rounds", "last", "length", "surplus", "sure", "unsure")
"""Logarithm of the rounds so far; accepted tokens of the last one; their moving average; moving
averages of accepted less promised, over all tested tokens, the sure and the unsure ones."""
MEMORY = 0.8
"""Weight of the past in a moving average; of what was never tested it stays as it was."""
SURE = 0.8
"""Least probability of a token that the draft is sure of."""


class History:
    """What is remembered of texts side by side; `reset` begins them anew."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._state = torch.zeros(1, len(NAMES))  # [1, S], or [P, S] once a round was seen

    def signals(self, num_texts: int) -> Tensor:
        """`NAMES` of each text, [P, S] float32."""
        return self._state.expand(num_texts, -1)

    def observe(self, outcome: Outcome) -> None:
        """Learns from a live round of each text; those that had none teach nothing."""
        probs = outcome.tree.log_probs.exp().cpu()
        self.add(probs, outcome.tested.cpu(), outcome.accepted.cpu(), outcome.num_emitted > 0)

    def add(self, probs: Tensor, tested: Tensor, accepted: Tensor, is_active: Tensor) -> None:
        """Learns from a round of each text.

        Args:
            probs: [P, N] the draft's, of each token.
            tested: [P, N] bool.
            accepted: [P, N] bool.
            is_active: [P] bool, whether there was a round.
        """
        before = self.signals(len(probs))
        rounds, _, length, *averages = before.unbind(1)
        num_accepted = (accepted & tested).sum(1).float()
        surplus = accepted.float() - probs
        kinds = (tested, tested & (probs >= SURE), tested & (probs < SURE))
        renewed = [
            torch.where(kind.any(1), _mixed(average, _mean(surplus, kind)), average)
            for kind, average in zip(kinds, averages, strict=True)
        ]
        counted = (rounds.exp()).log1p()  # log(1 + n) becomes log(2 + n)
        after = torch.stack((counted, num_accepted, _mixed(length, num_accepted), *renewed), dim=1)
        self._state = torch.where(is_active.unsqueeze(1), after, before)


def _mixed(past: Tensor, present: Tensor) -> Tensor:
    return MEMORY * past + (1 - MEMORY) * present


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Over the chosen of each row; 0 where there is none."""
    return (values * chosen).sum(1) / chosen.sum(1).clamp(min=1)
