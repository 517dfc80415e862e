"""Recorded texts, drafted after by another drafter than the one that was recorded.

Drafters that look tokens up need nothing recorded but the text; their drafts are made while a
policy is replayed, by the same code as live.

Shapes: P positions side by side, W nodes, C children, E draft rows, L levels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.decoding.merging import MergedProposer
from adaeagle.decoding.proposals import LiveProposer, Reader, check_drafter
from adaeagle.decoding.sampling import Sampling
from adaeagle.drafters.base import Candidates, Drafter, DraftSession, PrefixSession, Proposal
from adaeagle.policy import Needs, Policy
from adaeagle.trace.proposer import RecordedProposer, ReplayProposer
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from adaeagle.tree import ROOT, DraftTree


class RedraftedTrace(Trace):
    """A trace whose drafts are made by a drafter while policies ask for them.

    Of a merged drafter the look-up's are; its network must be the one that was recorded.

    Args:
        texts: in the order in which a policy that learns across texts sees them.
        vocab_size: of the target.
        redrafter: must be replayable.
        drafter: as for any trace.
    """

    def __init__(
        self,
        texts: Sequence[RecordedText],
        vocab_size: int,
        redrafter: Drafter,
        drafter: Callable[[], Drafter] | None = None,
    ) -> None:
        if not redrafter.is_replayable:
            raise ValueError(
                f"{redrafter.name} cannot be replayed: its drafts depend on more than the text"
            )
        super().__init__(texts, vocab_size, drafter)
        self._redrafter = redrafter
        self._opened: dict[int, PrefixSession] = {}  # by text

    def proposer(self, rows: Tensor, policy: Policy) -> ReplayProposer:
        check_drafter(policy, self._redrafter)
        redrafted = Redrafting(self._session(rows), policy.needs, self._redrafter)
        if not self._redrafter.parts:
            return redrafted
        return RecordedMerged(self.recorded(rows, policy.needs), redrafted, policy)

    def _session(self, rows: Tensor) -> "PositionsSession":
        texts = self.positions.text_of[rows]
        opened = {text: self._open(text) for text in torch.unique(texts).tolist()}
        return PositionsSession(opened, texts, self.positions.num_tokens[rows])

    def _open(self, text: int) -> PrefixSession:
        if text not in self._opened:
            recorded = self.texts[text]
            features = recorded.features
            if recorded.draft_features is not None:
                features = recorded.draft_features
            token_ids = torch.cat((recorded.prompt_ids, recorded.token_ids))
            self._opened[text] = self._redrafter.open(token_ids, features)
        return self._opened[text]


class Redrafting(LiveProposer):
    """Proposes at recorded positions what the drafter would live."""

    num_missing = 0
    runs = None

    def __init__(self, session: DraftSession, needs: Needs, drafter: Drafter) -> None:
        super().__init__(
            session,
            lambda: (torch.empty(0), None, []),
            Reader(needs),
            Sampling(),
            [],
            drafter.vocab_map,
            max_depth=drafter.max_depth,
        )
        self.looks_up = drafter.score is not None

    def ran(self, tree: DraftTree) -> DraftTree:
        return tree.cut(0) if self.looks_up else tree


class RecordedMerged(MergedProposer):
    """Proposes what a network was recorded to, and what a look-up would live."""

    runs = None
    looks_up = True

    def __init__(self, network: RecordedProposer, lookup: Redrafting, policy: Policy) -> None:
        super().__init__(network, lookup, policy)
        self._recorded = network

    @property
    def num_missing(self) -> int:
        """Nodes that had to be drafted."""
        return self._recorded.num_missing

    def ran(self, tree: DraftTree) -> DraftTree:
        return self.network_tree or tree.cut(0)


class PositionsSession(DraftSession):
    """Positions of recorded texts, side by side as if each were a text of its own.

    Args:
        opened: prefix sessions by text.
        texts: [P] which of them each position is of.
        lengths: [P] tokens of the prefix, the pending one included.
    """

    def __init__(self, opened: dict[int, PrefixSession], texts: Tensor, lengths: Tensor) -> None:
        self._opened, self._lengths = opened, lengths
        self._places = {text: (texts == text).nonzero().flatten() for text in opened}
        self._rows = torch.full((len(lengths), 1), ROOT)  # [P, E] the session's node of each

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        proposals = []
        for text, places in self._places.items():
            self._opened[text].reset()
            proposals.append(self._opened[text].roots(self._lengths[places]))
        return self._joined(proposals, 1)

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        width, proposals = token_ids.shape[1], []
        new = torch.empty_like(token_ids)
        for text, places in self._places.items():
            session = self._opened[text]
            parents = self._rows[places].gather(1, origins[places])
            new[places] = session.num_run + torch.arange(parents.numel()).view(parents.shape)
            lengths = self._lengths[places].repeat_interleave(width)
            proposals.append(
                session.extend_prefixes(token_ids[places].flatten(), parents.flatten(), lengths)
            )
        self._rows = torch.cat((self._rows, new), dim=1)
        return self._joined(proposals, width)

    def _joined(self, proposals: Sequence[Proposal], width: int) -> Proposal:
        """What was proposed text by text, [1, P' * W, ...] each, position by position."""
        order = torch.cat(list(self._places.values())).argsort()

        def join(parts: Sequence[Tensor]) -> Tensor:
            most = max(part.shape[-1] for part in parts) if parts[0].ndim == 3 else 0
            padded = [F.pad(part, (0, most - part.shape[-1])) if most else part for part in parts]
            whole = torch.cat([part[0] for part in padded])
            return whole.view(-1, width, *whole.shape[1:])[order]

        logits = [each.logits for each in proposals if each.logits is not None]
        if logits:
            return Proposal(join(logits), num_forwards=proposals[0].num_forwards)
        found = [each.candidates for each in proposals if each.candidates is not None]
        candidates = Candidates(
            join([each.token_ids for each in found]),
            join([each.num_children for each in found]),
            join([each.scores for each in found]),
        )
        return Proposal(candidates=candidates, num_forwards=0)
