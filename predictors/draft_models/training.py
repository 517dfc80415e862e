"""What trainings of draft heads share: a frozen target, what a step reads, drafts as a score.

Shapes: B texts, T tokens, C layers, H hidden size.
"""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from adaeagle.drafters.base import Drafter
from adaeagle.models.backbone import LAST
from adaeagle.models.target import Target
from adaeagle.ranges import at_least
from predictors.data.features import target_features
from predictors.draft_models.data import EagleBatch
from predictors.training.optimised import Optimisation, OptimisedTraining


class HeadTraining(OptimisedTraining):
    """Trains a head against a frozen target, which is no part of the checkpoints.

    Args:
        head: the network that drafting uses.
        target: the head's.
        optimisation: how the head is stepped. A small head trained briefly wants a learning rate of
            1e-3 and more.
        rollout: drafted tokens of validation's greedy chains.
        seed: of noise.
    """

    clip_by: ClassVar[Literal["norm", "value"]] = "norm"
    """How the source clips gradients."""

    def __init__(
        self,
        head: nn.Module,
        target: Target,
        optimisation: Optimisation,
        *,
        rollout: int,
        seed: int = 0,
    ) -> None:
        super().__init__(optimisation, seed)
        at_least(1, rollout=rollout)
        self.target = target  # not a module: its weights stay out of checkpoints and optimiser
        target.model.requires_grad_(False)
        self.head = head
        self.rollout = rollout

    @staticmethod
    def feature_layers(target: Target) -> tuple[int, ...]:
        """The layers of a target whose features a batch holds."""
        return (LAST,)

    @abstractmethod
    def losses(self, batch: EagleBatch, features: Tensor) -> dict[str, Tensor]:
        """Means over what counts: `loss`, which is trained, `agreement`, and others to be logged.

        Args:
            batch: texts.
            features: [B, T, C*H] of the target.
        """

    @abstractmethod
    def accepted_lengths(self, batch: EagleBatch, features: Tensor) -> Tensor:
        """How many of `rollout` drafted tokens are accepted behind each pair, [B, T-1] int64.

        Pair i is the feature of token i with token i + 1; its draft begins with token i + 2.
        """

    @abstractmethod
    def drafter(self) -> Drafter:
        """What drafts with the head, and saves it."""

    def features(self, batch: EagleBatch) -> Tensor:
        """[B, T, C*H] of the target, in the head's dtype."""
        found = batch.features
        if found is None:
            layers = self.feature_layers(self.target)
            found = target_features(self.target, batch.token_ids, layers)
        return found.to(next(self.head.parameters()).dtype)

    def on_fit_start(self) -> None:
        self.target.model.to(self.device)  # type: ignore[arg-type]

    def training_step(self, batch: EagleBatch, batch_index: int) -> Tensor:
        losses = self.losses(batch, self.features(batch))
        for name, loss in losses.items():
            self.log(f"train_{name}", loss, prog_bar=name in ("loss", "agreement"))
        return losses["loss"]

    def validation_step(self, batch: EagleBatch, batch_index: int) -> None:
        features, counts = self.features(batch), batch.is_answer[:, 1:]
        losses = {f"val_{name}": loss for name, loss in self.losses(batch, features).items()}
        self.log_dict(losses, sync_dist=True, batch_size=int(counts.sum()))
        # Only chains that do not run over the end of their text.
        whole = counts & (counts.flip(1).cumsum(1).flip(1) > self.rollout)
        if whole.any():
            lengths = self.accepted_lengths(batch, features)[whole].float().mean()
            name, size = f"val_accepted_{self.rollout}", int(whole.sum())
            self.log(name, lengths, prog_bar=True, sync_dist=True, batch_size=size)


@torch.no_grad()
def begin_small(linear: nn.Module) -> None:
    """Makes a layer's outputs small beside the residual that they are added to."""
    for weight in linear.parameters():
        weight.mul_(0.1)
