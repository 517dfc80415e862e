"""Lightning training of the networks among the predictors.

Source: AdamW and a cosine schedule, as AdaEAGLE (Zhang et al. 2024,
https://arxiv.org/abs/2412.18910) trains its LDLP.
Differs from the paper: a linear warm-up; noise that depends on the step alone, so that a resumed
run goes on exactly where it was killed.
"""

import math
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from predictors.base import Batch, TrainedPredictor


def cosine(step: int, max_steps: int, warmup_steps: int) -> float:
    """The learning rate's factor: up over `warmup_steps`, then down to 0 at `max_steps`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


class PredictorTraining(L.LightningModule):
    """Trains a predictor on batches of its examples.

    Args:
        predictor: prepared and measured.
        max_steps: optimiser steps of the whole run; the schedule ends there.
        learning_rate: AdamW's, at its highest.
        weight_decay: AdamW's.
        warmup_steps: optimiser steps of linear warm-up.
        seed: of dropout.
    """

    def __init__(
        self,
        predictor: TrainedPredictor,
        *,
        max_steps: int,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.predictor = predictor
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.seed = seed

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        place = self.global_step * self.trainer.world_size + self.global_rank
        torch.manual_seed(self.seed * 1_000_003 + place)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss = self.predictor.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        found = {"val_loss": self.predictor.loss(batch)}
        found |= {f"val_{name}": value for name, value in self.predictor.metrics(batch).items()}
        size = len(batch["token_ids"])
        self.log_dict(found, prog_bar=True, sync_dist=True, batch_size=size)

    def configure_optimizers(self) -> Any:
        trained = [each for each in self.predictor.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=self.learning_rate, weight_decay=self.weight_decay
        )
        factor = partial(cosine, max_steps=self.max_steps, warmup_steps=self.warmup_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
