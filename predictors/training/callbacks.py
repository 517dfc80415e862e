"""Keeps one broken gradient from destroying a whole training run."""

import logging

import lightning as L
import torch
from torch.optim import Optimizer

from adaeagle.ranges import at_least

log = logging.getLogger(__name__)


class SkipNonFiniteSteps(L.Callback):
    """Leaves out optimiser steps whose gradients hold inf or nan; ends the run if they persist.

    A single nan spreads through gradient clipping to every weight, and the next checkpoint would
    save it. Gradients are already reduced over processes here, so all of them decide alike.

    Args:
        max_in_a_row: how many steps may be left out one after another.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        at_least(1, max_in_a_row=max_in_a_row)
        self.max_in_a_row = max_in_a_row
        self.num_skipped = 0
        self._in_a_row = 0

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if torch.isfinite(torch.nn.utils.get_total_norm(gradients)):  # one host sync a step
            self._in_a_row = 0
            return
        self.num_skipped += 1
        self._in_a_row += 1
        log.warning("step %d left out: its gradients are not finite", trainer.global_step)
        if self._in_a_row > self.max_in_a_row:
            raise FloatingPointError(
                f"at most max_in_a_row={self.max_in_a_row} steps may have non-finite gradients "
                f"one after another, got {self._in_a_row} at step {trainer.global_step}"
            )
        optimizer.zero_grad(set_to_none=True)  # AdamW passes over parameters without a gradient
