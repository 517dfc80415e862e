"""Lightning training of an EAGLE-1/2 head on the target's own text.

Source: EAGLE, Li et al. 2024, https://arxiv.org/abs/2401.15077, and its official code: a smooth L1
loss on the next feature plus 0.1 of a soft cross-entropy through the frozen output head, uniform
noise on the input features, AdamW (0.9, 0.95) at 3e-5, linear warm-up and decay, clipping by value.
Differs from it: the noise has one width whatever the text's length, so that short texts are not
drowned; the pair whose token is an answer's first is trained on too, since drafting begins there;
prompts are left out of all but their keys. Two things are options:

* more than one unrolled step, each on the features that the one before predicted, as a draft does:
  the idea of HASS (Zhang et al. 2024, https://arxiv.org/abs/2408.15766), in the form of EAGLE-3's
  training-time test;
* a draft vocabulary (FR-Spec, Zhao et al. 2025, https://arxiv.org/abs/2502.14856): the output head
  is cut to it, and labels outside it count in the feature loss alone.

    step i of root t   reads t_{t+1+i} and f^ of step i-1 (step 0: f_t), at rope position t + i
                       predicts f_{t+1+i}, whose distribution is that of t_{t+2+i}
    its attention      step 0's keys of pairs 0..t, then the root's own keys of steps 1..i

Shapes: B texts, T tokens, H hidden size, V vocabulary, W draft vocabulary, M roots (pairs to draft
from).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig
from adaeagle.models.kv_cache import additive
from adaeagle.models.target import Target
from predictors.data.features import target_features
from predictors.draft_models.data import EagleBatch
from predictors.draft_models.eagle3_roots import Roots, UnrolledAttention
from predictors.draft_models.rollout import accepted_lengths
from predictors.draft_models.training import HeadTraining


def default_head_config(
    target: Target, num_layers: int = 1, draft_vocab_size: int | None = None
) -> EagleHeadConfig:
    """Decoder layers in the target's dimensions; the published heads have one, and no vocabulary
    of their own."""
    config = target.config
    return EagleHeadConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        num_hidden_layers=num_layers,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.rms_norm_eps,
        hidden_act=config.hidden_act,
        rope_theta=10000.0,
        fc_bias=True,
        qkv_bias=False,
        draft_vocab_size=draft_vocab_size,
    )


@torch.no_grad()
def begin_as_sum(head: EagleHead) -> None:
    """Lets the head begin by passing on the sum of embedding and feature.

    A head that is trained briefly starts near a sensible answer: the input layer adds, and the
    layers' outputs are small beside their inputs.
    """
    size = head.config.hidden_size
    both = torch.eye(size).repeat(1, 2)
    head.fc.weight.copy_(both)
    if head.fc.bias is not None:
        head.fc.bias.zero_()
    layer: Any
    for layer in head.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.mul_(0.1)


class EagleTraining(HeadTraining):
    """Regression of features, and the distributions that they lead to.

    Args:
        head: the network that drafting uses, its draft vocabulary set where it has one.
        target: gives embedding, output head and, where the batch has none, features.
        max_steps: as all others that are not told here, see `HeadTraining`.
        learning_rate: see there.
        weight_decay: see there.
        warmup_steps: see there.
        matrix_lr: see there.
        token_weight: of the cross-entropy beside the feature loss.
        noise: half the width of the uniform noise on input features.
        unroll: steps of a draft that are trained; the paper's one.
        decay: each step's loss weighs this much of the one before.
        rollout: see there.
        seed: of the noise.
    """

    head: EagleHead

    def __init__(
        self,
        head: EagleHead,
        target: Target,
        *,
        max_steps: int,
        learning_rate: float = 3e-5,
        weight_decay: float = 0.01,
        warmup_steps: int = 2000,
        matrix_lr: float | None = None,
        token_weight: float = 0.1,
        noise: float = 0.1,
        unroll: int = 1,
        decay: float = 1.0,
        rollout: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            head,
            target,
            max_steps=max_steps,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            matrix_lr=matrix_lr,
            rollout=rollout,
        )
        for name, size in (("token_weight", token_weight), ("noise", noise)):
            if size < 0:
                raise ValueError(f"{name} must be >= 0, got {size}")
        if unroll < 1:
            raise ValueError(f"unroll must be >= 1, got {unroll}")
        if decay <= 0:
            raise ValueError(f"decay must be > 0, got {decay}")
        self.token_weight = token_weight
        self.noise = noise
        self.unroll = unroll
        self.decay = decay
        self.seed = seed
        vocab = head.vocab_map
        self._draft_logits: Callable[[Tensor], Tensor] = (
            target.logits if vocab is None else target.cut_head(vocab)
        )

    def states(self, token_ids: Tensor, features: Tensor, roots: Roots) -> Iterator[Tensor]:
        """Each step's predicted features [M, H]; beyond a text's end they mean nothing.

        Args:
            token_ids: [B, T].
            features: [B, T, H] the target's.
            roots: of the texts.
        """
        head = self.head
        num_pairs = token_ids.shape[1] - 1
        embeddings = self.target.embed(token_ids[:, 1:]).to(features.dtype)
        positions = torch.arange(num_pairs, device=token_ids.device).unsqueeze(0)
        sees = positions <= roots.padded.unsqueeze(2)  # [B, R, T-1]
        mask = additive(sees.unsqueeze(1), features.dtype)
        inputs = head.fc(torch.cat((embeddings, features[:, :-1]), dim=-1))
        layers: list[Any] = list(head.layers)
        attentions = [UnrolledAttention(layer.self_attn, roots, mask) for layer in layers]
        x = inputs
        rotation = head.rotary(positions, x.dtype)
        for layer, attention in zip(layers, attentions, strict=True):
            # Every pair has keys; the last layer's queries, and all that follows, are the roots'.
            attention.read(layer.inputs(x), rotation)
            if layer is not layers[-1]:
                x = layer(x, rotation, None, None)
        rows = inputs[roots.texts, roots.pairs].unsqueeze(0)
        for step in range(self.unroll):
            if step > 0:
                taken = embeddings[roots.texts, (roots.pairs + step).clamp(max=num_pairs - 1)]
                rows = head.fc(torch.cat((taken.unsqueeze(0), rows), dim=-1))
            rotation = head.rotary((roots.pairs + step).unsqueeze(0), rows.dtype)
            for layer, attention in zip(layers, attentions, strict=True):
                rows = layer.finish(rows, attention(layer.inputs(rows), rotation, step))
            yield rows[0]

    def losses(
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
        draft_logits = self._draft_logits(drafted.to(self.target.dtype)).float()
        token_losses = F.cross_entropy(draft_logits, target_logits.softmax(-1), reduction="none")
        token_loss = (token_losses * is_known).sum() / is_known.sum().clamp(min=1)
        is_right = draft_logits.argmax(-1) == target_logits.argmax(-1)
        return feature_loss, token_loss, (is_right & is_known).float().mean()

    @torch.no_grad()
    def _label_logits(self, true: Tensor) -> Tensor:
        return self._draft_logits(true.to(self.target.dtype)).float()

    def _features(self, batch: EagleBatch) -> Tensor:
        features = batch.features
        if features is None:
            features = target_features(self.target, batch.token_ids)
        return features.to(self.head.fc.weight.dtype)

    def unrolled_losses(
        self, batch: EagleBatch, read: Tensor, true: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Means over the steps, weighted by `decay`: feature loss and token loss; and agreements.

        Args:
            batch: texts.
            read: [B, T, H] features as the head reads them.
            true: [B, T, H] the target's.

        Returns:
            both losses, and the top-1 agreement of each step [steps].
        """
        roots = Roots.of(batch.is_answer)
        labels = true[batch.is_answer]
        logits = self._label_logits(labels)
        is_known = self._is_known(batch)[batch.is_answer]
        label_of = (batch.is_answer.flatten().cumsum(0) - 1).view_as(batch.is_answer)  # [B, T]
        num_tokens = batch.token_ids.shape[1]
        weights = [self.decay**step for step in range(self.unroll)]
        totals = [true.new_zeros(()), true.new_zeros(())]
        agreements = []
        for step, drafted in enumerate(self.states(batch.token_ids, read, roots)):
            places = roots.pairs + 1 + step  # of the token read
            at = roots.texts, places.clamp(max=num_tokens - 1)
            counts = (places < num_tokens) & batch.is_answer[at]
            index = label_of[at][counts]
            *found, agreement = self.losses(
                drafted[counts], labels[index], logits[index], is_known[index]
            )
            totals = [
                total + weights[step] * loss for total, loss in zip(totals, found, strict=True)
            ]
            agreements.append(agreement)
        feature_loss, token_loss = (total / sum(weights) for total in totals)
        return feature_loss, token_loss, torch.stack(agreements)

    def _is_known(self, batch: EagleBatch) -> Tensor:
        """[B, T] bool, whether the draft vocabulary has the token after each one."""
        if self.head.vocab_map is None:
            return torch.ones_like(batch.is_answer)
        following = batch.token_ids.roll(-1, 1)
        # A text's last token has none after it: its distribution counts.
        is_last = ~batch.is_answer.roll(-1, 1)
        is_last[:, -1] = True
        return self.head.t2d[following] | is_last

    def likeliest(self, drafted: Tensor) -> Tensor:
        """The target's id of the token that features lead to: [..., H] → [...]."""
        chosen = self._draft_logits(drafted).argmax(-1)
        vocab = self.head.vocab_map
        return chosen if vocab is None else vocab[chosen]

    def _noisy(self, features: Tensor) -> Tensor:
        """The same noise at the same step of a run, resumed or not."""
        place = self.global_step * self.trainer.world_size + self.global_rank
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + place)
        noise = torch.rand(features.shape, generator=generator).to(features)
        return features + (noise - 0.5) * (2 * self.noise)

    def training_step(self, batch: EagleBatch, batch_index: int) -> Tensor:
        features = self._features(batch)
        feature_loss, token_loss, agreements = self.unrolled_losses(
            batch, self._noisy(features), features
        )
        loss = feature_loss + self.token_weight * token_loss
        self.log_dict({"train_loss": loss, "train_agreement": agreements[0]}, prog_bar=True)
        self.log_dict({"train_feature_loss": feature_loss, "train_token_loss": token_loss})
        return loss

    def validation_step(self, batch: EagleBatch, batch_index: int) -> None:
        features = self._features(batch)
        feature_loss, token_loss, agreements = self.unrolled_losses(batch, features, features)
        lengths = accepted_lengths(
            self.head,
            self.likeliest,
            batch.token_ids,
            self.target.embed(batch.token_ids).to(features.dtype),
            features,
            self.rollout,
        )
        loss = feature_loss + self.token_weight * token_loss
        losses = {"val_loss": loss, "val_agreement": agreements[0]}
        self.log_validation(losses, batch.is_answer[:, 1:], lengths)
