"""What trainings share: how weights are stepped, and random numbers that a resumed run repeats.

Sources: warm-up, stay, linear fall (S. Hu et al. 2024, https://arxiv.org/abs/2404.06395) for draft
models; AdamW and a cosine for predictors, as AdaEAGLE (https://arxiv.org/abs/2412.18910).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from adaeagle.ranges import at_least
from predictors.training.muon import MuonAdamW


@dataclass(frozen=True, slots=True)
class Optimisation:
    """How weights are stepped.

    Args:
        max_steps: optimiser steps of the whole run; the schedule ends there.
        learning_rate: AdamW's, at its highest.
        weight_decay: of the weights that AdamW steps.
        warmup_steps: optimiser steps of linear warm-up.
        schedule: how the learning rate falls to zero.
        fall: share of `max_steps` over which a linear schedule falls.
        betas: AdamW's.
        matrix_lr: Muon's learning rate for hidden matrices, at its highest, about 0.02; None: AdamW
            steps them too, as the papers do.
        matrix_decay: weight decay of these.
    """

    max_steps: int
    learning_rate: float
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["linear", "cosine"] = "linear"
    fall: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    matrix_lr: float | None = None
    matrix_decay: float = 0.0

    def __post_init__(self) -> None:
        at_least(1, max_steps=self.max_steps)
        if not 0 < self.fall <= 1:
            raise ValueError(f"fall must be in (0, 1], got {self.fall}")
        for name, rate in (("learning_rate", self.learning_rate), ("matrix_lr", self.matrix_lr)):
            if rate is not None and not rate > 0:
                raise ValueError(f"{name} must be > 0, got {rate}")

    def factor(self, step: int) -> float:
        """The learning rate's share of its highest."""
        rise = (step + 1) / max(1, self.warmup_steps)
        if self.schedule == "linear":
            left = (self.max_steps - step) / max(1.0, self.fall * self.max_steps)
            return max(0.0, min(rise, left, 1.0))
        if step < self.warmup_steps:
            return rise
        done = (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class OptimisedTraining(L.LightningModule):
    """A training whose modules are stepped as `optimisation` says.

    Args:
        optimisation: how.
        seed: of what is random in a step.
    """

    def __init__(self, optimisation: Optimisation, seed: int = 0) -> None:
        super().__init__()
        self.optimisation = optimisation
        self.seed = seed

    @property
    def step_seed(self) -> int:
        """The same at the same step of a run, resumed or not; another in each process."""
        place = self.global_step * self.trainer.world_size + self.global_rank
        return self.seed * 1_000_003 + place

    def configure_optimizers(self) -> Any:
        chosen = self.optimisation
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self.named_parameters():
            is_hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            if parameter.requires_grad:
                (matrices if is_hidden and chosen.matrix_lr else others).append(parameter)
        groups: list[dict[str, Any]] = [{"params": others}]
        if matrices:
            # Where training multiplies in bfloat16, so does Muon.
            is_bfloat16 = str(self.trainer.precision).startswith("bf16")
            muon = {"lr": chosen.matrix_lr, "weight_decay": chosen.matrix_decay, "muon": True}
            dtype = torch.bfloat16 if is_bfloat16 else torch.float32
            groups.append({"params": matrices, **muon, "muon_dtype": dtype})
        optimizer = MuonAdamW(
            groups, lr=chosen.learning_rate, betas=chosen.betas, weight_decay=chosen.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, chosen.factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
