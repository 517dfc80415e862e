"""What of a draft is accepted, and which tokens a round emits.

Greedy, by the seed alone (`coupled`), or by rejection, which keeps the target's distribution; see
`adaeagle.decoding.verification`. Shapes: V vocabulary, N drafted nodes, E draft rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.decoding import verification as verify
from adaeagle.decoding.clock import Part
from adaeagle.decoding.gumbel import gumbel_noise
from adaeagle.decoding.sampling import Sampling
from adaeagle.policy import Outcome
from adaeagle.tree import DraftTree


@dataclass(slots=True)
class Draft:
    """One round's tree as it goes to verification."""

    tree: DraftTree
    num_drafted: int
    depth: int
    distributions: Tensor | None  # [E, V] of the draft rows, where children were drawn
    noise: Tensor | None = None  # [depth + 1, V] of the round's positions, in coupled sampling


@dataclass(slots=True)
class Verdict:
    """One round's verification, on the host."""

    rows: list[int]  # accepted nodes, from the root down
    tested: list[int] | None  # nodes tried; None: whatever hangs from an accepted node
    emitted: list[int]  # accepted tokens and the bonus


class Acceptance:
    """How the tokens of one text are chosen.

    Args:
        sampling: the target's distribution, and what is random in a text.
        vocab_size: V of the target.
        device: of its logits.
    """

    def __init__(self, sampling: Sampling, vocab_size: int, device: torch.device) -> None:
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._device = device
        self._uniforms = torch.Generator().manual_seed(sampling.seed)

    def noise(self, start: int, depth: int) -> Tensor | None:
        """What picks the tokens of a round of this depth, in coupled sampling: [depth + 1, V].

        Args:
            start: tokens of prompt and text before it.
            depth: draft forwards.
        """
        if not self._sampling.is_coupled:
            return None
        return gumbel_noise(self._sampling.seed, start, depth + 1, self._vocab_size, self._device)

    def first(self, logits: Tensor, start: int) -> Tensor:
        """The token after a prompt of `start` tokens, whose logits are [1, 1, V]: [1] int64."""
        if self._is_rejecting:
            return self._sample(self._sampling.log_probs(logits)[0, 0].exp())
        return self._said(logits, DraftTree.empty(1, self._device), self.noise(start, 0))[0]

    def accept(self, drafted: Draft, paths: Tensor, logits: Tensor) -> Verdict:
        """What verification finds.

        Args:
            drafted: N nodes.
            paths: [1, N, N] bool, see `adaeagle.tree.ancestors`.
            logits: [1, N + 1, V] of the target after the root and after every node.
        """
        tree = drafted.tree
        if self._is_rejecting:
            return self._reject(drafted, logits)
        said = self._said(logits, tree, drafted.noise)
        if len(tree) == 0:
            return Verdict([], None, said[0].tolist())
        accepted = verify.greedy(tree, paths, said)
        # The round's one host sync where shapes are fixed.
        host = torch.cat((accepted.long(), said), dim=1)[0].tolist()
        rows = [row for row in range(len(tree)) if host[row]]
        said_host = host[len(tree) :]
        # What the target said after the root and after each accepted node.
        return Verdict(rows, None, [said_host[0], *(said_host[row + 1] for row in rows)])

    @property
    def _is_rejecting(self) -> bool:
        return not (self._sampling.is_greedy or self._sampling.is_coupled)

    def _said(self, logits: Tensor, tree: DraftTree, noise: Tensor | None) -> Tensor:
        """The target's token after the root and after every node: [1, N+1, V] → [1, N+1]."""
        if noise is None:
            return logits.argmax(-1)
        depths = F.pad(tree.depths[0], (1, 0))
        return (self._sampling.log_probs(logits) + noise[depths]).argmax(-1)

    def _reject(self, drafted: Draft, logits: Tensor) -> Verdict:
        probs = self._sampling.log_probs(logits)[0].exp()
        found = verify.rejection(drafted.tree, probs, drafted.distributions, self._uniform)
        bonus = self._sample(found.bonus_probs)
        tokens = drafted.tree.token_ids[0, found.rows].tolist()
        return Verdict(found.rows, found.tested, [*tokens, int(bonus)])

    def _uniform(self) -> float:
        return float(torch.rand((), dtype=torch.float64, generator=self._uniforms))

    def _sample(self, probs: Tensor) -> Tensor:
        """One token of [V] probabilities, by inversion, so that the seed alone decides."""
        total = probs.double().cumsum(0)
        threshold = self._uniform() * total[-1:]
        return torch.searchsorted(total, threshold, right=True).clamp(max=probs.shape[0] - 1)


def outcome_of(
    drafted: Draft, verdict: Verdict, num_emitted: int, seconds: dict[Part, float]
) -> Outcome:
    """What a policy that learns is told of a round.

    Args:
        drafted: what went to verification.
        verdict: what it found.
        num_emitted: tokens that the text took, which may have ended before.
        seconds: of the round's parts.
    """
    tree = drafted.tree
    rows = verdict.rows[:num_emitted]
    accepted = torch.zeros_like(tree.valid)
    accepted[0, rows] = True
    # What was drafted below a stop token is nobody's text: it counts as not tested.
    last = rows[-1] if rows and num_emitted <= len(verdict.rows) else None
    if verdict.tested is None:
        reached = torch.cat((torch.ones_like(accepted[:, :1]), accepted), dim=1)
        if last is not None:
            reached[0, last + 1] = False
        tested = reached.gather(1, tree.parents + 1) & tree.valid
    else:
        tested = torch.zeros_like(tree.valid)
        tested[0, verdict.tested] = True
        if last is not None:
            tested &= tree.depths <= tree.depths[0, last]
    return Outcome(
        tree=tree,
        tested=tested,
        accepted=accepted,
        num_accepted=torch.tensor([len(rows)]),
        num_emitted=torch.tensor([num_emitted]),
        depth=torch.tensor([drafted.depth]),
        draft_seconds=torch.tensor([seconds["draft"]], dtype=torch.float64),
        verify_seconds=torch.tensor([seconds["verify"]], dtype=torch.float64),
    )
