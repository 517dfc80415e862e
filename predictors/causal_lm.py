"""Lightning training of a small causal language model: the bundled target and its draft model.

Source: the learning rate warms up, stays, and falls linearly to zero (S. Hu et al. 2024,
https://arxiv.org/abs/2404.06395).
"""

import logging
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel


log = logging.getLogger(__name__)


def trapezoid(step: int, max_steps: int, warmup_steps: int, decay_fraction: float) -> float:
    """The learning rate's factor in [0, 1]: up over `warmup_steps`, flat, down to 0 at `max_steps`."""
    up = (step + 1) / max(1, warmup_steps)
    down = (max_steps - step) / max(1.0, decay_fraction * max_steps)
    return max(0.0, min(up, down, 1.0))


class CausalLMTraining(L.LightningModule):
    """Next-token training of a `transformers` causal LM on windows of packed tokens.

    Args:
        model: the network to train, with a `model` trunk and an `lm_head`.
        max_steps: optimiser steps of the whole run; the schedule ends there.
        learning_rate: AdamW's, at its highest.
        weight_decay: AdamW's, on matrices only.
        warmup_steps: optimiser steps of linear warm-up.
        decay_fraction: share of `max_steps` over which the learning rate falls to zero.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_steps: int,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.1,
        warmup_steps: int = 100,
        decay_fraction: float = 0.5,
    ) -> None:
        super().__init__()
        if max_steps < 1:
            raise ValueError(f"max_steps must be >= 1, got {max_steps}")
        if not 0 < decay_fraction <= 1:
            raise ValueError(f"decay_fraction must be in (0, 1], got {decay_fraction}")
        self.model = model
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
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

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leaves out a step whose gradient is not finite: one such step would ruin every weight."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            log.warning("step %d left out: its gradient is not finite", self.global_step)
            optimizer.zero_grad(set_to_none=True)

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.log("val_loss", self.loss(batch), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.95))
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
