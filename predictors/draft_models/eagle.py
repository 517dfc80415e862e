"""Lightning training of an EAGLE-1/2 head on the target's own text.

Source: EAGLE, Li et al. 2024, https://arxiv.org/abs/2401.15077, and its official code: a smooth L1
loss on the next feature plus 0.1 of a soft cross-entropy through the frozen output head, uniform
noise on the input features, AdamW (0.9, 0.95) at 3e-5, linear warm-up and decay, clipping by value.
Differs from it: the noise has one width whatever the text's length, so that short texts are not
drowned; the pair whose token is an answer's first is trained on too, since drafting begins there.

    pair t = (f_t, t_{t+1})   predicts f_{t+1}, whose distribution is that of t_{t+2}

Shapes: B texts, T tokens, H hidden size, V vocabulary, M pairs that count.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig
from adaeagle.models.target import Target
from predictors.data.features import target_features
from predictors.draft_models.data import EagleBatch
from predictors.draft_models.rollout import accepted_lengths
from predictors.draft_models.training import HeadTraining


def default_head_config(target: Target, num_layers: int = 1) -> EagleHeadConfig:
    """Decoder layers in the target's dimensions; the published heads have one."""
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
    )


class EagleTraining(HeadTraining):
    """Regression of features, and the distributions that they lead to.

    Args:
        head: the network that drafting uses.
        target: gives embedding, output head and, where the batch has none, features.
        max_steps: as all others that are not told here, see `HeadTraining`.
        learning_rate: see there.
        weight_decay: see there.
        warmup_steps: see there.
        token_weight: of the cross-entropy beside the feature loss.
        noise: half the width of the uniform noise on input features.
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
        token_weight: float = 0.1,
        noise: float = 0.1,
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
            rollout=rollout,
        )
        for name, size in (("token_weight", token_weight), ("noise", noise)):
            if size < 0:
                raise ValueError(f"{name} must be >= 0, got {size}")
        self.token_weight = token_weight
        self.noise = noise
        self.seed = seed

    def losses(
        self, predicted: Tensor, features: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Feature loss, token loss and top-1 agreement, means over the pairs that count.

        Args:
            predicted: [B, T-1, H] the head's f^_1 … f^_{T-1}.
            features: [B, T, H] the target's.
            counts: [B, T-1] bool.
        """
        drafted, true = predicted[counts], features[:, 1:][counts]  # [M, H]
        feature_loss = F.smooth_l1_loss(drafted, true)
        target_logits = self.target.logits(true.to(self.target.dtype)).float()
        draft_logits = self.target.logits(drafted.to(self.target.dtype)).float()
        token_loss = F.cross_entropy(draft_logits, target_logits.softmax(-1))
        agreement = (draft_logits.argmax(-1) == target_logits.argmax(-1)).float().mean()
        return feature_loss, token_loss, agreement

    def _features(self, batch: EagleBatch) -> Tensor:
        features = batch.features
        if features is None:
            features = target_features(self.target, batch.token_ids)
        return features.to(self.head.fc.weight.dtype)

    def _predict(self, batch: EagleBatch, features: Tensor) -> Tensor:
        """f^_1 … f^_{T-1} from pairs 0 … T-2; [B, T, H] → [B, T-1, H]."""
        embeddings = self.target.embed(batch.token_ids[:, 1:]).to(features.dtype)
        num_texts, num_pairs = embeddings.shape[:2]
        positions = torch.arange(num_pairs, device=features.device).expand(num_texts, -1)
        predicted = self.head(embeddings, features[:, :-1], positions)
        assert isinstance(predicted, Tensor)
        return predicted

    def _noisy(self, features: Tensor) -> Tensor:
        """The same noise at the same step of a run, resumed or not."""
        place = self.global_step * self.trainer.world_size + self.global_rank
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + place)
        noise = torch.rand(features.shape, generator=generator).to(features)
        return features + (noise - 0.5) * (2 * self.noise)

    def training_step(self, batch: EagleBatch, batch_index: int) -> Tensor:
        features = self._features(batch)
        predicted = self._predict(batch, self._noisy(features))
        feature_loss, token_loss, agreement = self.losses(
            predicted, features, batch.is_answer[:, 1:]
        )
        loss = feature_loss + self.token_weight * token_loss
        self.log_dict({"train_loss": loss, "train_agreement": agreement}, prog_bar=True)
        self.log_dict({"train_feature_loss": feature_loss, "train_token_loss": token_loss})
        return loss

    def validation_step(self, batch: EagleBatch, batch_index: int) -> None:
        features = self._features(batch)
        counts = batch.is_answer[:, 1:]
        predicted = self._predict(batch, features)
        feature_loss, token_loss, agreement = self.losses(predicted, features, counts)
        lengths = accepted_lengths(
            self.head,
            self.target.logits,
            batch.token_ids,
            self.target.embed(batch.token_ids).to(features.dtype),
            features,
            self.rollout,
        )
        loss = feature_loss + self.token_weight * token_loss
        self.log_validation({"val_loss": loss, "val_agreement": agreement}, counts, lengths)
