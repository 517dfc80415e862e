"""What trainings of EAGLE heads share: a frozen target, the optimiser, drafted chains as a score.

Shapes: B texts, T tokens.
"""

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from adaeagle.models.target import Target
from predictors.draft_models.causal_lm import trapezoid


class HeadTraining(L.LightningModule):
    """Trains a head against a frozen target, which is no part of the checkpoints.

    Args:
        head: the network that drafting uses.
        target: the head's.
        max_steps: optimiser steps of the whole run; the schedule ends there.
        learning_rate: AdamW's, at its highest. A small head trained briefly wants 1e-3 and more.
        weight_decay: AdamW's.
        warmup_steps: optimiser steps of linear warm-up.
        rollout: drafted tokens of validation's greedy chains.
    """

    def __init__(
        self,
        head: nn.Module,
        target: Target,
        *,
        max_steps: int,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        rollout: int,
    ) -> None:
        super().__init__()
        for name, value in (("max_steps", max_steps), ("rollout", rollout)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be > 0, got {learning_rate}")
        self.target = target  # not a module: its weights stay out of checkpoints and optimiser
        target.model.requires_grad_(False)
        self.head = head
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.rollout = rollout

    def on_fit_start(self) -> None:
        self.target.model.to(self.device)  # type: ignore[arg-type]

    def log_validation(self, losses: dict[str, Tensor], counts: Tensor, lengths: Tensor) -> None:
        """Logs one batch of validation.

        Args:
            losses: means over what counts, by name.
            counts: [B, T-1] bool, the pairs that count.
            lengths: [B, T-1] accepted tokens of the chains drafted from each.
        """
        self.log_dict(losses, prog_bar=True, sync_dist=True, batch_size=int(counts.sum()))
        # Only chains that do not run over the end of their text.
        whole = counts & (counts.flip(1).cumsum(1).flip(1) > self.rollout)
        if whole.any():
            self.log(
                f"val_accepted_{self.rollout}",
                lengths[whole].float().mean(),
                prog_bar=True,
                sync_dist=True,
                batch_size=int(whole.sum()),
            )

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.head.parameters(),
            lr=self.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=self.weight_decay,
        )
        factor = partial(
            trapezoid,
            max_steps=self.max_steps,
            warmup_steps=self.warmup_steps,
            decay_fraction=1.0,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
