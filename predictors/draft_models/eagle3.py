"""Lightning training of an EAGLE-3 head by training-time test: the draft is unrolled in training.

Source: EAGLE-3, Li et al. 2025, https://arxiv.org/abs/2503.01840, and its official code: seven
steps of weight 0.8^i, each on the output of the one before; a soft cross-entropy on the draft
vocabulary alone, no feature loss, no noise; AdamW (0.9, 0.95) at 5e-5, linear warm-up and decay,
clipping by norm.
Differs from the code: chains are unrolled from an answer's pairs alone, where drafting begins:
prompts and padding are left out of all steps but for their keys; a step's loss is the mean over
what counts, where the code divides by all of the batch; the output layer begins as the target's,
where the code draws it. Agreement is over answer tokens whether or not the draft vocabulary has
them, as in the code.

Shapes: B texts, T tokens, H hidden size, W draft vocabulary, M tokens of answers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.drafters.eagle3_head import Eagle3Head, Eagle3HeadConfig, feature_layers
from adaeagle.models.backbone import LAST
from adaeagle.models.target import Target
from predictors.draft_models.data import EagleBatch, head_dimensions
from predictors.draft_models.unrolled import UnrolledTraining
from predictors.training.optimised import Optimisation


def default_head3_config(target: Target, draft_vocab_size: int | None = None) -> Eagle3HeadConfig:
    """A head in the target's dimensions; the official ones draft from 32,000 tokens at most."""
    if draft_vocab_size is not None and not 1 <= draft_vocab_size <= target.vocab_size:
        raise ValueError(
            f"draft_vocab_size must be in 1..{target.vocab_size}, got {draft_vocab_size}"
        )
    return Eagle3HeadConfig(
        **head_dimensions(target),
        draft_vocab_size=draft_vocab_size or min(32_000, target.vocab_size),
        target_hidden_size=target.hidden_size,
    )


@torch.no_grad()
def begin_as_target(head: Eagle3Head, target: Target) -> None:
    """Gives the head the target's output layer for its draft tokens, where the widths agree."""
    output: Tensor = target.model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    if head.lm_head is not None and head.lm_head.in_features == output.shape[1]:
        vocab = head.vocab_map
        head.lm_head.weight.copy_(output if vocab is None else output[vocab.to(output.device)])


class Eagle3Training(UnrolledTraining):
    """The training-time test: losses of chains of drafts.

    Args:
        head: as all others, see `UnrolledTraining`.
        target: see there.
        optimisation: see there.
        unroll: see there; the paper's seven.
        decay: see there; the paper's 0.8.
        rollout: see there.
    """

    head: Eagle3Head

    def __init__(
        self,
        head: Eagle3Head,
        target: Target,
        optimisation: Optimisation,
        *,
        unroll: int = 7,
        decay: float = 0.8,
        rollout: int = 5,
    ) -> None:
        super().__init__(head, target, optimisation, unroll=unroll, decay=decay, rollout=rollout)

    @staticmethod
    def feature_layers(target: Target) -> tuple[int, ...]:
        """The head's three layers, then the last, whose distributions are the labels."""
        return (*feature_layers(target.config.num_hidden_layers), LAST)

    @property
    def layers(self) -> list[Any]:
        return [self.head.midlayer]

    def first_states(self, features: Tensor) -> Tensor:
        return self.head.fuse(features[..., : -self.target.hidden_size])

    def enter(self, embeddings: Tensor, states: Tensor) -> Tensor:
        return states

    def attention_inputs(self, layer: Any, embeddings: Tensor, x: Tensor) -> Tensor:
        inputs: Tensor = layer.inputs(embeddings, x)
        return inputs

    def draft_logits(self, states: Tensor) -> Tensor:
        return self.head.logits(states)

    def losses(self, batch: EagleBatch, features: Tensor) -> dict[str, Tensor]:
        """See `HeadTraining.losses`; the weighted sum of the steps, and each one's agreement."""
        last = features[batch.is_answer][:, -self.target.hidden_size :]
        target_token_ids, distributions, is_known = self._labels(last)
        loss, found = features.new_zeros(()), {}
        steps = self.steps(batch, self.first_states(features))
        for step, (weight, states, read) in enumerate(steps):
            logits, known = self.draft_logits(states), is_known[read]
            is_right = self.likeliest(logits.detach()) == target_token_ids[read]
            found[f"agreement_{step}"] = is_right.float().sum() / max(1, len(is_right))
            labels = distributions[read[known]]
            summed = F.cross_entropy(logits[known].float(), labels, reduction="sum")
            loss = loss + weight * summed / known.sum().clamp(min=1)
        return {"loss": loss, "agreement": found.pop("agreement_0"), **found}

    @torch.no_grad()
    def _labels(self, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The target after every token of the answers, of its last features [M, H].

        Its token [M], its distribution over the draft tokens [M, W], and whether its token is one
        of them [M].
        """
        logits = self.target.logits(last.to(self.target.dtype)).float()
        target_token_ids = logits.argmax(-1)
        vocab = self.head.vocab_map
        if vocab is None:
            is_known = torch.ones_like(target_token_ids, dtype=torch.bool)
            return target_token_ids, logits.softmax(-1), is_known
        return target_token_ids, logits[:, vocab].softmax(-1), self.head.t2d[target_token_ids]
