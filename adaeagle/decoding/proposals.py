"""What a draft session proposes, made into the levels of a tree.

Shapes: P texts side by side, W nodes, C children of each, V vocabulary of the draft, E draft rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.decoding.sampling import Sampling
from adaeagle.drafters.base import Candidates, Drafter, DraftSession, Pending, Proposal
from adaeagle.policy import NOTHING, Component, Needs, ProposalMode
from adaeagle.tree import UNLIKELY, DraftTree, Level

Noise = Callable[[int], Tensor]
"""Of a level, counted from 0: [P, V of the target] Gumbel noise that picks the target's tokens."""


class DraftReader(Protocol):
    """What of a policy a proposer has to know."""

    @property
    def proposal(self) -> ProposalMode: ...

    @property
    def needs(self) -> Needs: ...


@dataclass(frozen=True, slots=True)
class Reader:
    """What is read of drafts where children are never drawn."""

    needs: Needs = NOTHING
    proposal: ProposalMode = "top_k"


class LiveProposer:
    """Proposes from a draft session.

    Args:
        session: of the drafter, on the texts being decoded; None: nothing may be proposed.
        pending: gives what the session has not seen yet.
        policy: says whether children are drawn, and what else it needs of the distributions.
        sampling: the processing of distributions that are drawn from.
        generators: of the draws, one a text, on the session's device.
        vocab_map: [V] target token ids, where the drafter has a vocabulary of its own.
        vocab_size: of the target.
        noise: in coupled sampling; None otherwise.
        max_depth: most levels of the drafter; None: any number.
    """

    def __init__(
        self,
        session: DraftSession | None,
        pending: Callable[[], Pending],
        policy: DraftReader,
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        vocab_map: Tensor | None = None,
        vocab_size: int = 0,
        noise: Noise | None = None,
        max_depth: int | None = None,
    ) -> None:
        self.max_depth = max_depth
        self._session = session
        self._pending = pending
        self._policy = policy
        self._sampling = sampling
        self._generators = generators
        self._vocab_map = vocab_map
        self._vocab_size = vocab_size
        self._noise = noise
        self._distributions: list[Tensor] = []
        self._has_candidates = False
        self.num_forwards = 0
        """Forwards of a draft network so far."""

    @property
    def is_drawn(self) -> bool:
        """Children are drawn at random: leaving one out would change the distribution of the text.

        Not so in coupled sampling, nor where the drafter has ready-made candidates: point masses.
        """
        is_drawn = self._policy.proposal == "draw" and not self._sampling.is_greedy
        return is_drawn and self._noise is None and not self._has_candidates

    @property
    def distributions(self) -> Tensor | None:
        """[P, E, V of the target] of every draft row, where children were drawn; else None."""
        if not self._distributions:
            return None
        distributions = torch.cat(self._distributions, dim=1)
        if self._vocab_map is None:
            return distributions
        # Tokens outside the draft vocabulary are never drawn.
        full = distributions.new_zeros(*distributions.shape[:2], self._vocab_size)
        return full.index_copy_(2, self._vocab_map, distributions)

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        assert self._session is not None
        if len(tree) == 0:
            proposal = self._session.catch_up(*self._pending())
        else:
            proposal = self._session.extend(
                tree.token_ids.gather(1, rows), tree.origins.gather(1, rows)
            )
        self.num_forwards += proposal.num_forwards
        if proposal.candidates is not None:
            self._has_candidates = True
            return level_of(proposal.candidates, rows, num_ranks, num_children)
        return self._from_logits(proposal, tree.num_levels, rows, num_ranks, num_children)

    def _from_logits(
        self,
        proposal: Proposal,
        depth: int,
        rows: Tensor,
        num_ranks: int,
        num_children: Tensor | None,
    ) -> Level:
        assert proposal.logits is not None
        logits = proposal.logits.expand(-1, rows.shape[1], -1)
        num_ranks = min(num_ranks, logits.shape[-1])
        if self.is_drawn:
            log_probs = self._sampling.log_probs(logits)
            self._distributions.append(log_probs.exp())
            # Gumbel top-k: the order of the perturbed scores is a draw without replacement.
            noise = self._log_exponentials(log_probs, num_children)
            ids = (log_probs - noise).topk(num_ranks, dim=-1).indices
            return Level(
                rows,
                self._mapped(ids),
                log_probs.gather(-1, ids),
                num_children=num_children,
                entropies=entropy(log_probs) if self._policy.needs.entropy else None,
                confidences=self._confidences(log_probs),
            )
        if self._noise is not None:
            # Likely tokens are not to be expected where the noise that picks the target's token
            # speaks against them, so confidences are those of tokens under this noise.
            noise = self._noise(depth)
            noise = noise if self._vocab_map is None else noise[:, self._vocab_map]
            logits = self._sampling.log_probs(logits) + noise.unsqueeze(1)
        num_best = min(max(num_ranks, self._policy.needs.num_confidences), logits.shape[-1])
        ids, chosen, entropies = best(logits, num_best, self._policy.needs.entropy)
        return Level(
            rows,
            self._mapped(ids[..., :num_ranks]),
            chosen[..., :num_ranks],
            num_children=num_children,
            entropies=entropies,
            confidences=self._confidences(chosen, is_sorted=True),
        )

    def _log_exponentials(self, like: Tensor, num_children: Tensor | None) -> Tensor:
        """Noise [P, W, V]; a text draws for the nodes it opens, whatever runs beside it."""
        noise = torch.ones_like(like)
        for row, generator in enumerate(self._generators):
            is_open = slice(None) if num_children is None else num_children[row] > 0
            own = torch.empty_like(noise[row, is_open]).exponential_(generator=generator)
            noise[row, is_open] = own
        return noise.log_()

    def _confidences(self, log_probs: Tensor, is_sorted: bool = False) -> Tensor | None:
        """The best log-probs, as many as are needed: [P, W, V] → [P, W, K]."""
        wanted = self._policy.needs.num_confidences
        if not wanted:
            return None
        count = min(wanted, log_probs.shape[-1])  # a vocabulary may be smaller
        best_ones = log_probs[..., :count] if is_sorted else log_probs.topk(count).values
        return F.pad(best_ones, (0, wanted - count), value=-torch.inf)

    def _mapped(self, ids: Tensor) -> Tensor:
        return ids if self._vocab_map is None else self._vocab_map[ids]


def check_drafter(policy: Component, drafter: Drafter) -> None:
    """Refuses a policy that reads of drafts what the drafter does not give.

    Raises:
        ValueError: the message names the rule, what it reads and the drafter.
    """
    for part in policy.parts:
        check_drafter(part, drafter)
    name, needs = type(policy).__name__, policy.needs
    if drafter.parts:  # of both kinds
        return
    if needs.distribution and drafter.score is not None:
        raise ValueError(
            f"{name} reads probabilities of the draft, which {drafter.name} does not have: its "
            f"scores are of another kind ({drafter.score})"
        )
    if needs.scores and drafter.score is None:
        raise ValueError(
            f"{name} reads the scores of drafters that look tokens up, {drafter.name} has "
            "probabilities in their place"
        )


def level_of(
    candidates: Candidates, rows: Tensor, num_ranks: int, num_children: Tensor | None
) -> Level:
    """A level of ready-made children.

    They have no probabilities: each counts as unlikely as any other, so that paths keep the order
    of the drafter, and its own scores stand beside.

    Args:
        candidates: what may follow each of `rows`.
        rows: [P, W] int64, -1 for the root.
        num_ranks: most children of a node.
        num_children: [P, W] int64, most of each; None: `num_ranks`.
    """
    token_ids = candidates.token_ids[..., :num_ranks]
    counts = candidates.num_children.clamp(max=num_ranks)
    if num_children is not None:
        counts = torch.minimum(counts, num_children)
    scores = candidates.scores[..., :num_ranks]
    log_probs = torch.full_like(scores, UNLIKELY)
    return Level(rows, token_ids, log_probs, num_children=counts, scores=scores)


def best(
    logits: Tensor, num_ranks: int, needs_entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The likeliest tokens of distributions [..., V].

    Ids and log-probs [..., num_ranks], entropies [...]. Log-probs are float32, whatever the dtype
    of the logits.
    """
    ids = logits.topk(num_ranks, dim=-1).indices
    log_probs = logits.log_softmax(-1, dtype=torch.float32)
    entropies = entropy(log_probs) if needs_entropy else None
    return ids, log_probs.gather(-1, ids), entropies


def entropy(log_probs: Tensor) -> Tensor:
    """Of distributions [..., V], in nats: [...]."""
    entropies: Tensor = torch.special.entr(log_probs.exp()).sum(-1)
    return entropies
