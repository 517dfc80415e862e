"""Drafting with Medusa's heads: every level from one forward on the target's last feature.

Source: Medusa, Cai et al. 2024, https://arxiv.org/abs/2401.10774.
Differs from it: acceptance is the core's, where the paper's "typical" one changes the distribution
of the text; checkpoints of three dialects are read, see `adaeagle.drafters.medusa_heads`.

Shapes: P texts, Q prefixes, H size of features, V draft vocabulary, M heads.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from adaeagle.drafters.base import Drafter, DraftSession, Proposal
from adaeagle.drafters.head_files import find_head, read_head, write_head
from adaeagle.drafters.medusa_heads import MedusaHeads, read_heads, sort_weights
from adaeagle.models.backbone import LAST
from adaeagle.models.target import Target


class MedusaDrafter(Drafter):
    """Medusa's heads with the target whose features they read.

    A level is the same after every node of the one before, since no head sees drafted tokens.

    Args:
        heads: the network, moved to the target's device and dtype.
        target: gives the output layer where the heads have none.
        vocab_map: [V] target ids of output layers of a smaller vocabulary; None: the target's.
        name: what results call it.
    """

    kind = "medusa"
    feature_layers = (LAST,)

    def __init__(
        self,
        heads: MedusaHeads,
        target: Target,
        vocab_map: Tensor | None = None,
        *,
        name: str = "medusa",
    ) -> None:
        vocab_size = target.vocab_size if vocab_map is None else len(vocab_map)
        for what, found, expected in (
            ("hidden_size", heads.size, target.hidden_size),
            ("vocab_size", heads.vocab_size or target.vocab_size, vocab_size),
        ):
            if found != expected:
                raise ValueError(
                    f"the heads' {what} must be {target.name}'s {expected}, got {found}"
                )
        self.target = target
        self.heads = heads.to(target.device, target.dtype).eval()
        self.network = self.heads
        self.vocab_map = None if vocab_map is None else vocab_map.to(target.device)
        self.max_depth = len(heads)
        self.name = name

    @classmethod
    def from_pretrained(
        cls, name: str, target: Target, *, revision: str | None = None
    ) -> "MedusaDrafter":
        """Loads a folder or a Hugging Face id, official files as they are."""
        raw, weights = read_head(find_head(name, revision))
        heads = read_heads(name, raw, weights)
        return cls(heads, target, sort_weights(weights).token_map, name=name)

    def save_pretrained(self, folder: Path) -> None:
        """Writes the heads in the official layout."""
        write_head(folder, self.heads.to_json(), self.heads)

    def logits(self, features: Tensor) -> Tensor:
        """What each head says: [..., H] → [M, ..., V]."""
        states = self.heads.states(features)
        if self.heads.vocab_size is None:
            return self.target.logits(torch.stack(states))
        return torch.stack(self.heads.outputs(states))

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> "MedusaSession":
        return MedusaSession(self)

    def open(self, token_ids: Tensor, features: Tensor | None) -> "MedusaPrefixes":
        features = _needed(features)[: len(token_ids) - 1]
        return MedusaPrefixes(self, features.to(self.target.device, self.target.dtype))


def medusa(target: Target, head: str, revision: str | None = None) -> MedusaDrafter:
    """Medusa's heads on the target's features.

    Args:
        target: whose features they read.
        head: a folder or a Hugging Face id.
        revision: of a Hugging Face repository.
    """
    return MedusaDrafter.from_pretrained(head, target, revision=revision)


class MedusaSession(DraftSession):
    """Texts on Medusa's heads. Nothing is kept from one round to the next."""

    def __init__(self, drafter: MedusaDrafter) -> None:
        self._drafter = drafter
        self._logits = torch.empty(0)  # [M, P, V] of the current round
        self._level = 0

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        features = _needed(features)
        last = [max(count, 1) - 1 for count in counts]
        self._logits = self._drafter.logits(features[range(len(last)), last])
        self._level = 0
        return Proposal(self._logits[0].unsqueeze(1))

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        self._level += 1
        return Proposal(self._logits[self._level].unsqueeze(1), num_forwards=0)

    def replace(self, row: int, prompt_ids: Sequence[int]) -> None:
        pass

    def keep(self, rows: Sequence[int]) -> None:
        pass


class MedusaPrefixes:
    """See `PrefixSession`.

    Args:
        drafter: whose heads.
        features: [A - 1, H] of all tokens but the last.
    """

    def __init__(self, drafter: MedusaDrafter, features: Tensor) -> None:
        self._drafter = drafter
        self._features = features
        self._depths = torch.zeros(1, dtype=torch.int64)  # of the root and the nodes

    @property
    def num_run(self) -> int:
        return len(self._depths) - 1

    def reset(self) -> None:
        self._depths = self._depths[:1]

    def roots(self, lengths: Tensor) -> Proposal:
        return self._after(lengths, torch.zeros_like(lengths))

    def extend_prefixes(self, token_ids: Tensor, parents: Tensor, lengths: Tensor) -> Proposal:
        depths = self._depths[parents + 1] + 1
        self._depths = torch.cat((self._depths, depths))
        return self._after(lengths, depths)

    def _after(self, lengths: Tensor, depths: Tensor) -> Proposal:
        """What follows nodes [Q]: the head of their depth, on the feature before the root."""
        logits = self._drafter.logits(self._features[lengths - 2])
        return Proposal(logits[depths, torch.arange(len(depths))].unsqueeze(0), num_forwards=1)


def _needed(features: Tensor | None) -> Tensor:
    if features is None:
        raise ValueError("Medusa's heads need the target's features, got none")
    return features
