"""Lightning training of a small causal language model: the bundled target and its draft model.

Source: the learning rate warms up, stays, and falls linearly to zero (S. Hu et al. 2024,
https://arxiv.org/abs/2404.06395).
"""

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from predictors.training.muon import MuonAdamW


def trapezoid(step: int, max_steps: int, warmup_steps: int, decay_fraction: float) -> float:
    """The learning rate's factor: up over `warmup_steps`, flat at 1, down to 0 at `max_steps`."""
    up = (step + 1) / max(1, warmup_steps)
    down = (max_steps - step) / max(1.0, decay_fraction * max_steps)
    return max(0.0, min(up, down, 1.0))


class CausalLMTraining(L.LightningModule):
    """Next-token training of a `transformers` causal LM on windows of packed tokens.

    Args:
        model: the network to train, with a `model` trunk and an `lm_head`.
        max_steps: optimiser steps of the whole run; the schedule ends there.
        matrix_lr: Muon's learning rate for the hidden matrices, at its highest.
        learning_rate: AdamW's for embeddings, output head and norms, at its highest.
        warmup_steps: optimiser steps of linear warm-up.
        decay_fraction: share of `max_steps` over which the learning rate falls to zero.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_steps: int,
        matrix_lr: float = 0.02,
        learning_rate: float = 3e-3,
        warmup_steps: int = 50,
        decay_fraction: float = 0.5,
    ) -> None:
        super().__init__()
        if max_steps < 1:
            raise ValueError(f"max_steps must be >= 1, got {max_steps}")
        if not 0 < decay_fraction <= 1:
            raise ValueError(f"decay_fraction must be in (0, 1], got {decay_fraction}")
        self.model = model
        self.max_steps = max_steps
        self.matrix_lr = matrix_lr
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay_fraction = decay_fraction

    def loss(self, token_ids: Tensor) -> Tensor:
        """Mean cross-entropy in nats a token; token_ids [B, T] int64."""
        hidden = self.model.model(input_ids=token_ids, use_cache=False).last_hidden_state
        logits = self.model.lm_head(hidden[:, :-1]).float()
        return F.cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten())

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.log("val_loss", self.loss(batch), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self.model.named_parameters():
            is_hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (matrices if is_hidden else others).append(parameter)
        groups = [
            {"params": matrices, "lr": self.matrix_lr, "weight_decay": 0.05, "muon": True},
            {"params": others, "lr": self.learning_rate, "weight_decay": 0.0},
        ]
        optimizer = MuonAdamW(groups, betas=(0.9, 0.95))
        factor = partial(
            trapezoid,
            max_steps=self.max_steps,
            warmup_steps=self.warmup_steps,
            decay_fraction=self.decay_fraction,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
