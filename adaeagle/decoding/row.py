"""A text beside others: what the models and the drafter need of it from one round to the next.

Shapes: A tokens, N verified nodes, V vocabulary, D size of a target's features.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessorList

from adaeagle.decoding.sequence import Sequence
from adaeagle.drafters.base import Pending
from adaeagle.models.processors import build, process_paths
from adaeagle.models.target import Target
from adaeagle.tree import DraftTree


@dataclass(slots=True)
class Row:
    """One text's place in a batch."""

    sequence: Sequence
    draws: torch.Generator  # decides which children are drawn
    processors: LogitsProcessorList
    last_id: Tensor  # [1] the last committed token
    last_feature: Tensor  # [D] the target's feature of it
    last_logits: Tensor  # [V] the target's after it, before any processor
    # What the drafter has not seen: tokens, and features of the positions before each.
    unseen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, sequence: Sequence, target: Target) -> "Row":
        """A text that has not begun."""
        num_prompt, device = len(sequence.prompt_ids), target.device
        return cls(
            sequence,
            torch.Generator(device).manual_seed(sequence.seed + 1),
            build(
                target.model.generation_config,
                num_prompt,
                num_prompt + sequence.limit,
                sequence.stop_token_ids,
                device,
            ),
            last_id=torch.zeros(1, dtype=torch.int64, device=device),
            last_feature=torch.zeros(target.hidden_size, dtype=target.dtype, device=device),
            last_logits=torch.zeros(target.vocab_size, device=device),
        )

    def process(self, logits: Tensor, tree: DraftTree) -> Tensor:
        """This text's logits [1, N + 1, V] after what the generation config asks for."""
        if not self.processors:
            return logits
        text_ids = self.sequence.prompt_ids + self.sequence.token_ids
        return process_paths(self.processors, logits, text_ids, tree)

    def commit(
        self, last_features: Tensor, last_logits: Tensor, drafter_features: Tensor | None
    ) -> None:
        """After tokens were emitted: keeps what the next round needs of those behind them.

        Args:
            last_features: [A, D] of the A tokens that were committed, which the target has run.
            last_logits: [V] the target's after the last of them.
            drafter_features: [A, C] those that the drafter reads; None: nothing drafts.
        """
        token_ids = torch.tensor(self.sequence.tail(len(last_features) + 1))
        token_ids = token_ids.to(last_features.device)
        if drafter_features is not None:
            self.unseen.append((token_ids[1:], drafter_features))
        self.last_id, self.last_feature = token_ids[-2:-1], last_features[-1]
        self.last_logits = last_logits


def pending(rows: Many[Row]) -> Pending:
    """What the drafter has not seen of texts side by side, padded behind where they differ."""
    token_ids, features = [], []
    width = next((row.unseen[0][1].shape[1] for row in rows if row.unseen), 0)
    for row in rows:
        empty = (row.last_id[:0], row.last_feature.new_zeros(0, width))
        ids, states = zip(empty, *row.unseen, strict=True)
        token_ids.append(torch.cat(ids))
        features.append(torch.cat(states))
    counts = [len(ids) for ids in token_ids]
    padded = pad_sequence(token_ids, batch_first=True)
    return padded, pad_sequence(features, batch_first=True) if width else None, counts
