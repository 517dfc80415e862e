"""Lightning training of a small causal language model: the bundled target and its draft model."""

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from predictors.training.optimised import Optimisation, OptimisedTraining


class CausalLMTraining(OptimisedTraining):
    """Next-token training of a `transformers` causal LM on windows of packed tokens.

    Args:
        model: the network to train.
        max_steps: optimiser steps of the whole run; the schedule ends there.
        matrix_lr: Muon's learning rate for the hidden matrices, at its highest.
        learning_rate: AdamW's for embeddings, output head and norms, at its highest.
        warmup_steps: optimiser steps of linear warm-up.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_steps: int,
        matrix_lr: float = 0.02,
        learning_rate: float = 3e-3,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__(
            Optimisation(
                max_steps,
                learning_rate,
                warmup_steps=warmup_steps,
                fall=0.5,
                matrix_lr=matrix_lr,
                matrix_decay=0.05,
            )
        )
        self.model = model

    def loss(self, token_ids: Tensor) -> Tensor:
        """Mean cross-entropy in nats a token; token_ids [B, T] int64."""
        logits = self.model(input_ids=token_ids, use_cache=False).logits[:, :-1].float()
        return F.cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten())

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.log("val_loss", self.loss(batch), prog_bar=True, sync_dist=True)
