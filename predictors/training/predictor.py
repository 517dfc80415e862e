"""Lightning training of the networks among the predictors.

Source: AdamW and a cosine schedule, as AdaEAGLE (Zhang et al. 2024,
https://arxiv.org/abs/2412.18910) trains its LDLP.
Differs from the paper: a linear warm-up; dropout that depends on the step alone, so that a resumed
run goes on exactly where it was killed.
"""

import torch
from torch import Tensor

from predictors.base import Batch, TrainedPredictor
from predictors.training.optimised import Optimisation, OptimisedTraining


class PredictorTraining(OptimisedTraining):
    """Trains a predictor on batches of its examples.

    Args:
        predictor: prepared and measured.
        optimisation: how its weights are stepped.
        seed: of dropout.
    """

    def __init__(
        self, predictor: TrainedPredictor, optimisation: Optimisation, seed: int = 0
    ) -> None:
        super().__init__(optimisation, seed)
        self.predictor = predictor

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        torch.manual_seed(self.step_seed)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss = self.predictor.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        found = {"val_loss": self.predictor.loss(batch)}
        found |= {f"val_{name}": value for name, value in self.predictor.metrics(batch).items()}
        size = len(batch["token_ids"])
        self.log_dict(found, prog_bar=True, sync_dist=True, batch_size=size)
