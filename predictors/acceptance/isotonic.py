"""Isotonic calibration of the draft's confidence: how often is what it says with 0.7 accepted?

Source: scikit-learn's `IsotonicRegression`; a baseline, of no paper.

Shapes: P rounds side by side, F nodes of each, B examples, T thresholds.
"""

from dataclasses import field

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from adaeagle.identity import ModelIdentity
from predictors.acceptance.base import AcceptancePredictor, check_classes
from predictors.base import Batch, FittedPredictor, setting_fields
from predictors.data.nodes import Nodes

LEAST_PROB = 1e-4
"""No odds are longer: a curve of finitely many examples may end at 0 and 1."""


@setting_fields
class Isotonic(AcceptancePredictor, FittedPredictor):
    """A rising curve from the probability of a drafted token to that of its acceptance.

    Args:
        shape: spec of the policy whose drafts it is fitted to.
    """

    kind = "isotonic"
    confidences: Tensor = field(init=False)
    probs: Tensor = field(init=False)

    shape: str = "chain(length=16)"

    def build(self, models: ModelIdentity, embedding: Tensor | None) -> None:
        self.register_buffer("confidences", torch.empty(0))  # [T] rising
        self.register_buffer("probs", torch.empty(0))  # [T]

    def fit(self, batch: Batch, seed: int) -> None:
        check_classes(batch["accepted"])
        model = IsotonicRegression(out_of_bounds="clip")
        model.fit(batch["log_probs"].exp().numpy(), batch["accepted"].float().numpy())
        corners, probs = model.X_thresholds_, model.y_thresholds_
        # Flat beyond its last corner, of which there may be one alone.
        self.confidences = torch.from_numpy(np.append(corners, corners[-1] + 1.0)).float()
        self.probs = torch.from_numpy(np.append(probs, probs[-1])).float()

    def log_odds(self, nodes: Nodes, encoded: Tensor | None) -> Tensor:
        confidences, probs = self.confidences, self.probs
        given = nodes.log_probs.exp().clamp(confidences[0], confidences[-1]).contiguous()
        above = torch.searchsorted(confidences, given).clamp(1, len(confidences) - 1)
        left, right = confidences[above - 1], confidences[above]
        share = (given - left) / (right - left)
        found = torch.lerp(probs[above - 1], probs[above], share)
        return torch.logit(found, eps=LEAST_PROB)
