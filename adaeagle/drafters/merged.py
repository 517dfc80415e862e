"""A draft network and a look-up that draft one tree together.

Source: SAM-Decoding (Hu et al. 2024, https://arxiv.org/abs/2411.10666) and SuffixDecoding (Oliaro
et al. 2024, https://arxiv.org/abs/2411.04975), which take either draft in each round.
Differs from them: the children of both hang in one tree, united where they are the same token, and
a policy decides node by node whether the network is run as well (`Policy.runs_network`).

Shapes: P texts, A tokens, D size of features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adaeagle.drafters.base import (
    Drafter,
    DraftSession,
    Pending,
    PrefixSession,
    Proposal,
    Verified,
)
from adaeagle.models.target import Target
from adaeagle.tree import ExtraRows


class MergedDrafter(Drafter):
    """A look-up, and a draft network beside it that is run where a policy wants it.

    Children are deterministic: each counts as a point mass at a temperature above 0. A node's
    log-prob is the network's, its score the look-up's.

    Args:
        target: not used; both drafters were made for it.
        network: proposes distributions, such as `eagle(...)` or `lm(...)`.
        lookup: proposes ready-made children, such as `suffix(...)`.
    """

    kind = "merged"

    def __init__(self, target: Target | None, network: Drafter, lookup: Drafter) -> None:
        for name, drafter, is_lookup in (("network", network, False), ("lookup", lookup, True)):
            if drafter.parts or (drafter.score is not None) != is_lookup:
                must = "a look-up such as suffix()" if is_lookup else "a network such as eagle()"
                raise ValueError(f"{name} must be {must}, got {drafter.name}")
        self.name = f"{network.name} + {lookup.name}"
        self.parts = (network, lookup)
        self.feature_layers = network.feature_layers
        self.is_replayable = network.is_replayable and lookup.is_replayable
        self.score = lookup.score
        self.network = network.network

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> "MergedSession":
        network, lookup = (part.begin(prompts, capacity) for part in self.parts)
        return MergedSession(network, lookup)

    def open(self, token_ids: Tensor, features: Tensor | None) -> PrefixSession:
        """The look-up on a known text; what the network drafts after it is recorded by itself."""
        if not self.is_replayable:
            return super().open(token_ids, features)
        return self.parts[1].open(token_ids, features)


class MergedSession(DraftSession):
    """A look-up on texts; `beside` it a network, which takes texts in when it is run.

    Args:
        network: its session.
        lookup: the other one's.
    """

    def __init__(self, network: DraftSession, lookup: DraftSession) -> None:
        self.beside: DraftSession = network
        self._lookup = lookup
        self._unseen: list[Pending] = []  # what the network has not taken in

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        self._unseen.append((token_ids, features, counts))
        return self._lookup.catch_up(token_ids, features, counts)

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        return self._lookup.extend(token_ids, origins)

    def pending_beside(self) -> Pending:
        parts, self._unseen = self._unseen, []
        if len(parts) == 1:
            return parts[0]
        counts = [sum(of_text) for of_text in zip(*(part[2] for part in parts), strict=True)]

        def joined(values: Sequence[Tensor]) -> Tensor:
            rows = [
                torch.cat([v[row, : part[2][row]] for v, part in zip(values, parts, strict=True)])
                for row in range(len(counts))
            ]
            return pad_sequence(rows, batch_first=True)

        features = [part[1] for part in parts if part[1] is not None]
        return joined([part[0] for part in parts]), joined(features) if features else None, counts

    def replace(self, row: int, prompt_ids: Sequence[int]) -> None:
        self._unseen = [
            (ids, features, [0 if place == row else count for place, count in enumerate(counts)])
            for ids, features, counts in self._unseen
        ]
        for session in (self.beside, self._lookup):
            session.replace(row, prompt_ids)

    def keep(self, rows: Sequence[int]) -> None:
        chosen = list(rows)
        self._unseen = [
            (ids[chosen], None if features is None else features[chosen], [counts[r] for r in rows])
            for ids, features, counts in self._unseen
        ]
        for session in (self.beside, self._lookup):
            session.keep(rows)

    def extra_rows(self) -> ExtraRows | None:
        return self._lookup.extra_rows()

    def verified(self, result: Verified) -> None:
        self._lookup.verified(result)
