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
from predictors.training.muon import MuonAdamW


class HeadTraining(L.LightningModule):
    """Trains a head against a frozen target, which is no part of the checkpoints.

    Args:
        head: the network that drafting uses.
        target: the head's.
        max_steps: optimiser steps of the whole run; the schedule ends there.
        learning_rate: AdamW's, at its highest. A small head trained briefly wants 1e-3 and more.
        weight_decay: AdamW's.
        warmup_steps: optimiser steps of linear warm-up.
        matrix_lr: Muon's learning rate for the head's matrices, at its highest, about 0.02; None:
            AdamW steps them too, as the papers do.
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
        matrix_lr: float | None,
        rollout: int,
    ) -> None:
        super().__init__()
        for name, value in (("max_steps", max_steps), ("rollout", rollout)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        for name, rate in (("learning_rate", learning_rate), ("matrix_lr", matrix_lr)):
            if rate is not None and rate <= 0:
                raise ValueError(f"{name} must be > 0, got {rate}")
        self.target = target  # not a module: its weights stay out of checkpoints and optimiser
        target.model.requires_grad_(False)
        self.head = head
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.matrix_lr = matrix_lr
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
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self.head.named_parameters():
            is_matrix = parameter.ndim == 2 and not name.startswith("lm_head")
            (matrices if is_matrix and self.matrix_lr else others).append(parameter)
        groups: list[dict[str, Any]] = [{"params": others}]
        if matrices:
            # Where training multiplies in bfloat16, so does Muon.
            is_bfloat16 = str(self.trainer.precision).startswith("bf16")
            dtype = torch.bfloat16 if is_bfloat16 else torch.float32
            muon = {"lr": self.matrix_lr, "muon": True, "muon_dtype": dtype}
            groups.append({"params": matrices, **muon})
        optimizer = MuonAdamW(
            groups, lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=self.weight_decay
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
