"""Lightning training of an EAGLE-3 head by training-time test: the draft is unrolled in training.

Source: EAGLE-3, Li et al. 2025, https://arxiv.org/abs/2503.01840, and its official code: seven
steps of weight 0.8^i, each on the output of the one before; a soft cross-entropy on the draft
vocabulary alone, no feature loss, no noise; AdamW (0.9, 0.95) at 5e-5, linear warm-up and decay,
clipping by norm.
Differs from the code: chains are unrolled from an answer's pairs alone, where drafting begins:
prompts and padding are left out of all steps but for their keys; a step counts where the token it
*reads* is an answer's, so an answer's first token is learnt and nothing beyond a text's end; a
step's loss is the mean over what counts, where the code divides by all of the batch; the output
layer begins as the target's, where the code draws it. Agreement is over answer tokens whether or
not the draft vocabulary has them, as in the code.

    step i of root t   reads t_{t+1+i} and the state of step i-1, at rope position t + i
                       predicts the target's distribution after position t + 1 + i, that of
                       t_{t+2+i}
    its attention      step 0's keys of pairs 0..t, then the root's own keys of steps 1..i

which is what a chain drafted from pair t reads. Attention is written out and takes memory by roots
times length of a text.
Shapes: B texts, T tokens, R roots (pairs to draft from) of the text with most, H hidden size,
A heads, D head dimension, V target vocabulary, W draft vocabulary, M roots (of labels: tokens of
answers).
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.drafters.eagle3_head import Eagle3Head, Eagle3HeadConfig, feature_layers
from adaeagle.models.backbone import LAST
from adaeagle.models.kv_cache import additive
from adaeagle.models.target import Target
from predictors.data.features import target_features
from predictors.draft_models.data import EagleBatch
from predictors.draft_models.eagle3_roots import Roots, UnrolledAttention
from predictors.draft_models.rollout import accepted_lengths
from predictors.draft_models.training import HeadTraining


def default_head3_config(target: Target, draft_vocab_size: int | None = None) -> Eagle3HeadConfig:
    """A head in the target's dimensions; the official ones draft from 32,000 tokens at most."""
    config = target.config
    if draft_vocab_size is not None and not 1 <= draft_vocab_size <= target.vocab_size:
        raise ValueError(
            f"draft_vocab_size must be in 1..{target.vocab_size}, got {draft_vocab_size}"
        )
    return Eagle3HeadConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.rms_norm_eps,
        hidden_act=config.hidden_act,
        rope_theta=10000.0,
        qkv_bias=False,
        head_dim=config.hidden_size // config.num_attention_heads,
        draft_vocab_size=draft_vocab_size or min(32_000, target.vocab_size),
        target_hidden_size=config.hidden_size,
    )


def training_layers(target: Target) -> tuple[int, ...]:
    """What a training batch holds of the target: the head's three layers, then the last."""
    return (*feature_layers(target.config.num_hidden_layers), LAST)


def frequent_tokens(texts: Iterable[EagleBatch], vocab_size: int, size: int) -> Tensor:
    """The `size` most frequent ids among the answers of `texts`, ascending: [size] int64."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for text in texts:
        counts += torch.bincount(text.token_ids[text.is_answer], minlength=vocab_size)
    chosen = counts.argsort(descending=True, stable=True)[:size]
    token_ids: Tensor = chosen.sort().values
    return token_ids


@torch.no_grad()
def begin_as_target(head: Eagle3Head, target: Target) -> None:
    """Gives the head the target's output layer for its draft tokens, where the widths agree."""
    output: Tensor = target.model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    if head.lm_head.in_features == output.shape[1]:
        vocab = head.vocab_map
        head.lm_head.weight.copy_(output if vocab is None else output[vocab.to(output.device)])


class Eagle3Training(HeadTraining):
    """The training-time test: losses of chains of drafts.

    Args:
        head: the network that drafting uses, its draft vocabulary set.
        target: gives embedding, distributions and, where the batch has none, features.
        max_steps: as all others that are not described here, see `HeadTraining`.
        learning_rate: see there.
        weight_decay: see there.
        warmup_steps: see there.
        unroll: steps of the training-time test.
        decay: each step's loss weighs this much of the one before.
        rollout: see there.
        matrix_lr: see there.
    """

    head: Eagle3Head

    def __init__(
        self,
        head: Eagle3Head,
        target: Target,
        *,
        max_steps: int,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.0,
        warmup_steps: int = 2000,
        unroll: int = 7,
        decay: float = 0.8,
        rollout: int = 5,
        matrix_lr: float | None = None,
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
        if unroll < 1:
            raise ValueError(f"unroll must be >= 1, got {unroll}")
        if decay <= 0:
            raise ValueError(f"decay must be > 0, got {decay}")
        self.unroll = unroll
        self.decay = decay

    def states(self, token_ids: Tensor, features: Tensor, roots: Roots) -> Iterator[Tensor]:
        """Each step's states [M, H]; beyond a text's end they mean nothing.

        Args:
            token_ids: [B, T].
            features: [B, T, 3H] the target's.
            roots: of the texts.
        """
        head, layer = self.head, self.head.midlayer
        num_pairs = token_ids.shape[1] - 1
        embeddings = self.target.embed(token_ids[:, 1:]).to(features.dtype)
        fused = head.fuse(features[:, :-1])
        positions = torch.arange(num_pairs, device=token_ids.device).unsqueeze(0)
        sees = positions <= roots.padded.unsqueeze(2)  # [B, R, T-1]
        mask = additive(sees.unsqueeze(1), fused.dtype)
        attention = UnrolledAttention(layer.self_attn, roots, mask)
        # Every pair has keys; queries, and all that follows, are of the roots alone.
        attention.read(layer.inputs(embeddings, fused), head.rotary(positions, fused.dtype))
        states = fused[roots.texts, roots.pairs].unsqueeze(0)
        for step in range(self.unroll):
            taken = embeddings[roots.texts, (roots.pairs + step).clamp(max=num_pairs - 1)]
            rotation = head.rotary((roots.pairs + step).unsqueeze(0), states.dtype)
            inputs = layer.inputs(taken.unsqueeze(0), states)
            states = layer.finish(states, attention(inputs, rotation, step))
            yield states[0]

    def losses(self, batch: EagleBatch, features: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of the steps' losses, and each step's top-1 agreement [steps].

        Args:
            batch: texts.
            features: [B, T, 3H] of the head's three layers.
            last: [B, T, H] of the last layer.
        """
        roots = Roots.of(batch.is_answer)
        target_token_ids, distributions, is_known = self._labels(last[batch.is_answer])
        label_of = (batch.is_answer.flatten().cumsum(0) - 1).view_as(batch.is_answer)  # [B, T]
        num_tokens = batch.token_ids.shape[1]
        loss = features.new_zeros(())
        agreements: list[Tensor] = []
        for step, states in enumerate(self.states(batch.token_ids, features, roots)):
            places = roots.pairs + 1 + step  # of the token read
            read = roots.texts, places.clamp(max=num_tokens - 1)
            counts = (places < num_tokens) & batch.is_answer[read]
            labels = label_of[read][counts]
            logits = self.head.logits(states[counts])
            agreements.append(self._agreement(logits, target_token_ids[labels]))
            known = is_known[labels]
            summed = F.cross_entropy(
                logits[known].float(), distributions[labels[known]], reduction="sum"
            )
            loss = loss + self.decay**step * summed / known.sum().clamp(min=1)
        return loss, torch.stack(agreements)

    @torch.no_grad()
    def _labels(self, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The target after every token of the answers.

        Its token [M], its distribution over the draft tokens [M, W], and whether its token is one
        of them [M].
        """
        logits = self.target.logits(last.to(self.target.dtype)).float()
        target_token_ids = logits.argmax(-1)
        vocab = self.head.vocab_map
        if vocab is None:
            return (
                target_token_ids,
                logits.softmax(-1),
                torch.ones_like(target_token_ids, dtype=torch.bool),
            )
        return target_token_ids, logits[:, vocab].softmax(-1), self.head.t2d[target_token_ids]

    @torch.no_grad()
    def _agreement(self, logits: Tensor, target_token_ids: Tensor) -> Tensor:
        vocab = self.head.vocab_map
        drafted = logits.argmax(-1)
        drafted = drafted if vocab is None else vocab[drafted]
        return (drafted == target_token_ids).float().sum() / max(1, len(target_token_ids))

    def likeliest(self, states: Tensor) -> Tensor:
        """The target's id of the token that states lead to: [..., H] → [...]."""
        chosen = self.head.logits(states).argmax(-1)
        vocab = self.head.vocab_map
        return chosen if vocab is None else vocab[chosen]

    def _features(self, batch: EagleBatch) -> tuple[Tensor, Tensor]:
        """The three layers [B, T, 3H] and the last [B, T, H]."""
        features = batch.features
        if features is None:
            layers = training_layers(self.target)
            features = target_features(self.target, batch.token_ids, layers)
        features = features.to(self.head.fc.weight.dtype)
        return features[..., : -self.target.hidden_size], features[..., -self.target.hidden_size :]

    def training_step(self, batch: EagleBatch, batch_index: int) -> Tensor:
        loss, agreements = self.losses(batch, *self._features(batch))
        self.log_dict({"train_loss": loss, "train_agreement": agreements[0]}, prog_bar=True)
        return loss

    def validation_step(self, batch: EagleBatch, batch_index: int) -> None:
        features, last = self._features(batch)
        loss, agreements = self.losses(batch, features, last)
        lengths = accepted_lengths(
            self.head,
            self.likeliest,
            batch.token_ids,
            self.target.embed(batch.token_ids).to(features.dtype),
            self.head.fuse(features),
            self.rollout,
        )
        losses = {"val_loss": loss, "val_agreement": agreements[0]}
        self.log_validation(losses, batch.is_answer[:, 1:], lengths)
