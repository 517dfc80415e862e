"""Lightning training of Medusa's heads on the target's own text.

Source: Medusa, Cai et al. 2024, https://arxiv.org/abs/2401.10774, with a frozen target, which the
paper calls Medusa-1: head i reads the target's last feature of a token and is trained by
cross-entropy on the token 2 + i places behind it; the sum weighs head i by 0.8^i; AdamW at 1e-3.
Differs from the paper: heads read answers alone, where drafting happens; by default they share the
target's output layer, where the published ones have one each, five times the size of the target's;
those of their own begin as the target's. The text is the target's own, whose tokens are its
likeliest ones.

Shapes: B texts, T tokens, H hidden size, V vocabulary, I heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaeagle.drafters.medusa import MedusaDrafter
from adaeagle.drafters.medusa_heads import MedusaHeads
from adaeagle.models.target import Target
from adaeagle.ranges import above
from predictors.draft_models.data import EagleBatch
from predictors.draft_models.training import HeadTraining
from predictors.training.optimised import Optimisation


def default_heads(
    target: Target, num_heads: int = 3, num_blocks: int = 1, own_output: bool = False
) -> MedusaHeads:
    """Heads in the target's dimensions, which begin as the target's next token.

    Args:
        target: whose features they read.
        num_heads: tokens of a draft; the paper has five.
        num_blocks: residual blocks of each.
        own_output: an output layer for each head, in place of the target's.
    """
    vocab_size = target.vocab_size if own_output else None
    heads = MedusaHeads(num_heads, num_blocks, target.hidden_size, vocab_size)
    if own_output:
        output = target.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        for head in heads.heads:
            layer = head[-1]
            assert isinstance(layer, nn.Linear)
            layer.weight.data.copy_(output.weight[: target.vocab_size])
    return heads


class MedusaTraining(HeadTraining):
    """Cross-entropy of every head on the token that it is to propose.

    Args:
        head: all of the heads.
        target: gives features, and the output layer where the heads have none.
        optimisation: how the heads are stepped.
        decay: each head's loss weighs this much of the one before.
    """

    head: MedusaHeads

    def __init__(
        self, head: MedusaHeads, target: Target, optimisation: Optimisation, *, decay: float = 0.8
    ) -> None:
        super().__init__(head, target, optimisation, rollout=len(head))
        above(0, decay=decay)
        self.decay = decay

    def losses(self, batch: EagleBatch, features: Tensor) -> dict[str, Tensor]:
        """See `HeadTraining.losses`; and each head's agreement with the text."""
        loss, found = features.new_zeros(()), {}
        states = self.head.states(features)
        for place, state in enumerate(states):
            shift = 2 + place
            counts = batch.is_answer[:, shift:] & batch.is_answer[:, 1 : 1 - shift]
            labels = batch.token_ids[:, shift:][counts]
            logits = self.logits(place, state[:, :-shift][counts])
            num_labels = max(1, len(labels))
            summed = F.cross_entropy(logits, labels, reduction="sum")
            loss = loss + self.decay**place * summed / num_labels
            is_right = logits.detach().argmax(-1) == labels
            found[f"agreement_{place}"] = is_right.float().sum() / num_labels
        return {"loss": loss, "agreement": found.pop("agreement_0"), **found}

    def logits(self, place: int, states: Tensor) -> Tensor:
        """What the output layer of a head says of its states: [M, H] → [M, V] float32."""
        head = self.head.heads[place]
        if self.head.vocab_size is None:
            return self.target.logits(states.to(self.target.dtype)).float()
        logits: Tensor = head[-1](states)
        return logits.float()

    @torch.no_grad()
    def accepted_lengths(self, batch: EagleBatch, features: Tensor) -> Tensor:
        token_ids = batch.token_ids
        is_alive = torch.ones_like(token_ids[:, 1:], dtype=torch.bool)
        lengths = torch.zeros_like(token_ids[:, 1:])
        for place, state in enumerate(self.head.states(features)):
            drafted = self.logits(place, state[:, :-1]).argmax(-1)
            is_right = torch.zeros_like(is_alive)
            is_right[:, : -1 - place] = drafted[:, : -1 - place] == token_ids[:, 2 + place :]
            is_alive = is_alive & is_right
            lengths += is_alive
        return lengths

    def drafter(self) -> MedusaDrafter:
        return MedusaDrafter(self.head.cpu(), self.target)
