"""Gradient-boosted trees on what the draft says of a node.

Source: scikit-learn's `HistGradientBoostingClassifier`; a baseline, of no paper. Its trees are kept
as tensors and walked here, all of them and all nodes at once.

Shapes: P rounds side by side, F nodes of each, B examples, S inputs, T trees, E nodes of a tree.
"""

from dataclasses import field

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from adaeagle.identity import ModelIdentity
from adaeagle.ranges import above, at_least
from predictors.acceptance.base import AcceptancePredictor, check_classes
from predictors.base import Batch, FittedPredictor, setting_fields
from predictors.data.nodes import Nodes

SCALARS = ("log_prob", "path_log_prob", "entropy", "depth", "rank")
COLUMNS = {"feature_idx": "inputs", "num_threshold": "thresholds", "left": "left", "right": "right"}
"""What scikit-learn calls the columns of a tree, and we do."""


@setting_fields
class Boosting(AcceptancePredictor, FittedPredictor):
    """Boosted trees on log-probabilities, entropy, depth and rank.

    Args:
        shape: spec of the policy whose drafts it is fitted to.
        num_trees: T.
        max_depth: of each tree; each level costs time in every decision.
        learning_rate: share of each tree.
    """

    kind = "boosting"
    inputs: Tensor = field(init=False)
    thresholds: Tensor = field(init=False)
    left: Tensor = field(init=False)
    right: Tensor = field(init=False)
    values: Tensor = field(init=False)
    bias: Tensor = field(init=False)

    shape: str = "chain(length=16)"
    num_trees: int = 60
    max_depth: int = 4
    learning_rate: float = 0.1

    def check_settings(self) -> None:
        at_least(1, num_trees=self.num_trees, max_depth=self.max_depth)
        above(0, learning_rate=self.learning_rate)

    def build(self, models: ModelIdentity, embedding: Tensor | None) -> None:
        for name in COLUMNS.values():
            self.register_buffer(name, torch.empty(0))  # [T, E]; a leaf leads to itself
        self.register_buffer("values", torch.empty(0))  # [T, E]
        self.register_buffer("bias", torch.zeros(()))

    def fit(self, batch: Batch, seed: int) -> None:
        check_classes(batch["accepted"])
        model = HistGradientBoostingClassifier(
            max_iter=self.num_trees,
            max_depth=self.max_depth,
            learning_rate=self.learning_rate,
            early_stopping=False,
            random_state=seed,
        )
        model.fit(Nodes.of_batch(batch).scalars(*SCALARS).numpy(), batch["accepted"].numpy())
        # scikit-learn has no public form of its trees; a test holds ours against its predictions.
        trees = [tree.nodes for [tree] in model._predictors]
        longest = max(len(tree) for tree in trees)
        stacked = np.zeros((len(trees), longest), dtype=trees[0].dtype)
        for row, tree in zip(stacked, trees, strict=True):
            tree = tree.copy()
            own = np.arange(len(tree))
            for side in ("left", "right"):
                tree[side] = np.where(tree["is_leaf"], own, tree[side])
            row[: len(tree)] = tree
        for theirs, ours in COLUMNS.items():
            kind = np.float32 if theirs == "num_threshold" else np.int64
            setattr(self, ours, torch.from_numpy(stacked[theirs].astype(kind)))
        self.values = torch.from_numpy(stacked["value"].astype(np.float32))
        self.bias = torch.from_numpy(model._baseline_prediction.astype(np.float32)).squeeze()

    def log_odds(self, nodes: Nodes, encoded: Tensor | None) -> Tensor:
        given = nodes.scalars(*SCALARS)  # [P, F, S]
        first = torch.arange(len(self.values), device=given.device) * self.values.shape[1]  # [T]
        inputs, thresholds = self.inputs.flatten(), self.thresholds.flatten()
        left, right = self.left.flatten(), self.right.flatten()
        place = first.expand(*given.shape[:-1], -1)  # [P, F, T], the roots
        for _ in range(self.max_depth):
            is_left = given.gather(-1, inputs[place]) <= thresholds[place]
            place = first + torch.where(is_left, left[place], right[place])
        return self.values.flatten()[place].sum(-1) + self.bias
