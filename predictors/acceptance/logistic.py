"""Logistic regression of a node's acceptance on what the draft says of it.

Source: scikit-learn's `LogisticRegression`; a baseline, of no paper.

Shapes: P rounds side by side, F nodes of each, B examples, S inputs.
"""

from dataclasses import field

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from adaeagle.identity import ModelIdentity
from adaeagle.ranges import above
from predictors.acceptance.base import AcceptancePredictor, check_classes
from predictors.base import Batch, FittedPredictor, setting_fields
from predictors.data.nodes import Nodes
from predictors.layers.context import Standardize

SCALARS = ("log_prob", "path_log_prob", "prob", "entropy", "depth", "rank")


@setting_fields
class Logistic(AcceptancePredictor, FittedPredictor):
    """Linear in what the draft says: its log-probabilities, entropy, depth and rank.

    Args:
        shape: spec of the policy whose drafts it is fitted to.
        strength: C, the inverse of the regularisation.
    """

    kind = "logistic"
    weights: Tensor = field(init=False)
    bias: Tensor = field(init=False)

    shape: str = "chain(length=16)"
    strength: float = 1.0

    def check_settings(self) -> None:
        above(0, strength=self.strength)

    def build(self, models: ModelIdentity, embedding: Tensor | None) -> None:
        self.scale = Standardize(len(SCALARS))
        self.register_buffer("weights", torch.zeros(len(SCALARS)))
        self.register_buffer("bias", torch.zeros(()))

    def fit(self, batch: Batch, seed: int) -> None:
        check_classes(batch["accepted"])
        inputs = Nodes.of_batch(batch).scalars(*SCALARS)
        self.scale.measure(inputs)
        model = LogisticRegression(C=self.strength, max_iter=1000, random_state=seed)
        model.fit(self.scale(inputs).numpy(), batch["accepted"].numpy())
        self.weights = torch.from_numpy(model.coef_[0]).float()
        self.bias = torch.from_numpy(model.intercept_)[0].float()

    def log_odds(self, nodes: Nodes, encoded: Tensor | None) -> Tensor:
        inputs: Tensor = self.scale(nodes.scalars(*SCALARS))
        return inputs @ self.weights + self.bias
