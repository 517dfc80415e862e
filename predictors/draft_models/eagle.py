"""Lightning training of an EAGLE-1/2 head on the target's own text.

Source: EAGLE, Li et al. 2024, https://arxiv.org/abs/2401.15077, and its official code: a smooth L1
loss on the next feature plus 0.1 of a soft cross-entropy through the frozen output head, uniform
noise on the input features, AdamW (0.9, 0.95) at 3e-5, linear warm-up and decay, clipping by value.
Differs from it: the noise has one width whatever the text's length, so that short texts are not
drowned; the pair whose token is an answer's first is trained on too, since drafting begins there;
prompts are left out of all but their keys. Two things are options:

* more than one unrolled step, each on the features that the one before predicted, as a draft does:
  the idea of HASS (Zhang et al. 2024, https://arxiv.org/abs/2408.15766), in the form of EAGLE-3's
  training-time test, see `predictors.draft_models.unrolled`; a state is a predicted feature;
* a draft vocabulary (FR-Spec, Zhao et al. 2025, https://arxiv.org/abs/2502.14856): the output head
  is cut to it, and labels outside it count in the feature loss alone.

Shapes: B texts, T tokens, H hidden size, W draft vocabulary, M tokens of answers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig
from adaeagle.models.target import Target
from adaeagle.ranges import at_least
from predictors.draft_models.data import EagleBatch, head_dimensions
from predictors.draft_models.training import begin_small
from predictors.draft_models.unrolled import UnrolledTraining
from predictors.training.optimised import Optimisation


def default_head_config(
    target: Target, num_layers: int = 1, draft_vocab_size: int | None = None
) -> EagleHeadConfig:
    """Decoder layers in the target's dimensions; the published heads have one, and no vocabulary
    of their own."""
    return EagleHeadConfig(
        **head_dimensions(target),
        num_hidden_layers=num_layers,
        fc_bias=True,
        draft_vocab_size=draft_vocab_size,
    )


@torch.no_grad()
def begin_as_sum(head: EagleHead) -> None:
    """Lets the head begin by passing on the sum of embedding and feature.

    A head that is trained briefly starts near a sensible answer: the input layer adds, and the
    layers' outputs are small beside their inputs.
    """
    head.fc.weight.copy_(torch.eye(head.config.hidden_size).repeat(1, 2))
    if head.fc.bias is not None:
        head.fc.bias.zero_()
    layer: Any
    for layer in head.layers:
        begin_small(layer.self_attn.o_proj)
        begin_small(layer.mlp.down_proj)


class EagleTraining(UnrolledTraining):
    """Regression of features, and the distributions that they lead to.

    Args:
        head: as all others that are not described here, see `UnrolledTraining`.
        target: see there.
        optimisation: see there.
        token_weight: of the cross-entropy beside the feature loss.
        noise: half the width of the uniform noise on input features.
        unroll: see there; the paper's one.
        decay: see there.
        rollout: see there.
        seed: see there.
    """

    head: EagleHead
    clip_by = "value"

    def __init__(
        self,
        head: EagleHead,
        target: Target,
        optimisation: Optimisation,
        *,
        token_weight: float = 0.1,
        noise: float = 0.1,
        unroll: int = 1,
        decay: float = 1.0,
        rollout: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            head, target, optimisation, unroll=unroll, decay=decay, rollout=rollout, seed=seed
        )
        at_least(0, token_weight=token_weight, noise=noise)
        self.token_weight = token_weight
        self.noise = noise
        vocab = head.vocab_map
        self._output = target.logits if vocab is None else target.cut_head(vocab)

    @property
    def layers(self) -> list[Any]:
        return list(self.head.layers)

    def first_states(self, features: Tensor) -> Tensor:
        return features

    def enter(self, embeddings: Tensor, states: Tensor) -> Tensor:
        entered: Tensor = self.head.fc(torch.cat((embeddings, states), dim=-1))
        return entered

    def attention_inputs(self, layer: Any, embeddings: Tensor, x: Tensor) -> Tensor:
        inputs: Tensor = layer.inputs(x)
        return inputs

    def draft_logits(self, states: Tensor) -> Tensor:
        return self._output(states.to(self.target.dtype)).float()

    def losses(self, batch: EagleBatch, features: Tensor) -> dict[str, Tensor]:
        """See `HeadTraining.losses`; means over the steps, weighted by `decay`."""
        true = features[batch.is_answer]
        with torch.no_grad():
            logits = self.draft_logits(true)
        is_known = self._is_known(batch)[batch.is_answer]
        totals, weights, agreements = torch.zeros(2, device=true.device), 0.0, []
        for weight, drafted, read in self.steps(batch, self._noisy(features)):
            *found, agreement = self.row_losses(drafted, true[read], logits[read], is_known[read])
            totals = totals + weight * torch.stack(found)
            weights += weight
            agreements.append(agreement)
        feature_loss, token_loss = totals / weights
        return {
            "loss": feature_loss + self.token_weight * token_loss,
            "agreement": agreements[0],
            "feature_loss": feature_loss,
            "token_loss": token_loss,
        }

    def row_losses(
        self, drafted: Tensor, true: Tensor, target_logits: Tensor, is_known: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Feature loss, token loss and top-1 agreement, means over rows.

        Args:
            drafted: [M, H] predicted features.
            true: [M, H] the target's.
            target_logits: [M, W] of `true`.
            is_known: [M] bool, whether the draft vocabulary has the target's token; where it has
                not, there is no token loss and no agreement.
        """
        feature_loss = F.smooth_l1_loss(drafted, true)
        draft_logits = self.draft_logits(drafted)
        token_losses = F.cross_entropy(draft_logits, target_logits.softmax(-1), reduction="none")
        token_loss = (token_losses * is_known).sum() / is_known.sum().clamp(min=1)
        is_right = draft_logits.argmax(-1) == target_logits.argmax(-1)
        return feature_loss, token_loss, (is_right & is_known).float().mean()

    def _is_known(self, batch: EagleBatch) -> Tensor:
        """[B, T] bool, whether the draft vocabulary has the token after each one."""
        if self.head.vocab_map is None:
            return torch.ones_like(batch.is_answer)
        following = batch.token_ids.roll(-1, 1)
        # A text's last token has none after it: its distribution counts.
        is_last = ~batch.is_answer.roll(-1, 1)
        is_last[:, -1] = True
        return self.head.t2d[following] | is_last

    def _noisy(self, features: Tensor) -> Tensor:
        """Features as training reads them: the same noise at the same step, resumed or not."""
        if not self.training:
            return features
        generator = torch.Generator().manual_seed(self.step_seed)
        noise = torch.rand(features.shape, generator=generator).to(features)
        return features + (noise - 0.5) * (2 * self.noise)
