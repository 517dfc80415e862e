"""What a trace says of its greedy chains: how sure the draft was, and what became of each token.

    paper   the length that is accepted, as AdaEAGLE trains on
    dp      the length that makes the whole text cheapest under a cost model

A chain is cut off where the text or the limit ends before `k_max` tokens: what would have become of
its last tokens is not known. Such positions have no length labels, whatever their first tokens
did, since leaving out the accepted ones alone would make the others look typical.

Shapes: Q positions of a trace, K = k_max tokens of a chain, C recorded choices of the draft.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaeagle.cost.model import CostModel, RoundShapes
from adaeagle.policy import Policy
from adaeagle.ranges import at_least
from adaeagle.replay.oracle import Choices, choices, dp
from adaeagle.replay.replay import walk
from adaeagle.trace.positions import Positions
from adaeagle.trace.trace import Trace


@dataclass(frozen=True, slots=True)
class Chains:
    """The greedy draft of every position. What lies beyond `num_known` is padding."""

    token_ids: Tensor  # [Q, K] int64
    log_probs: Tensor  # [Q, K] float32, of each token
    entropies: Tensor  # [Q, K] float32 nats, of the distribution each token was proposed from
    confidences: Tensor  # [Q, K, C] float32, log-probs of that distribution's best tokens
    accepted: Tensor  # [Q, K] bool: the text says it and all before it
    num_known: Tensor  # [Q] int64: tokens that the text is long enough to judge

    @property
    def k_max(self) -> int:
        return self.log_probs.shape[1]

    @property
    def known(self) -> Tensor:
        """[Q, K] bool: the text is long enough to judge this token."""
        return torch.arange(self.k_max) < self.num_known.unsqueeze(1)

    @property
    def tested(self) -> Tensor:
        """[Q, K] bool: all before this token is accepted, so a verification would judge it."""
        before = torch.ones_like(self.accepted)
        before[:, 1:] = self.accepted[:, :-1]
        return before & self.known

    @property
    def lengths(self) -> Tensor:
        """[Q] int64, accepted tokens; of a chain that is cut off, so far."""
        return self.accepted.sum(1)

    @property
    def whole(self) -> Tensor:
        """[Q] bool: not cut off."""
        return self.num_known == self.k_max


def read_chains(trace: Trace, k_max: int, num_confidences: int = 1) -> Chains:
    """The greedy chain of every position of a trace.

    Args:
        trace: what was recorded.
        k_max: tokens of a chain.
        num_confidences: C, how many of the draft's choices to read.

    Raises:
        ValueError: so much was not recorded.
    """
    at_least(1, k_max=k_max)
    envelope, positions = trace.envelope, trace.positions
    if not 1 <= num_confidences <= envelope.num_ranks:
        raise ValueError(
            f"num_confidences must be in 1..{envelope.num_ranks}, what was recorded, "
            f"got {num_confidences}"
        )
    rows = torch.arange(len(positions))
    num_known = torch.minimum(positions.num_left, positions.remaining - 1).clamp(max=k_max)
    node, is_accepted = envelope.roots, torch.ones_like(rows, dtype=torch.bool)
    columns = []
    for depth in range(1, k_max + 1):
        is_known = num_known >= depth
        if (is_known & (node < 0)).any():
            raise ValueError(f"k_max must be <= {depth - 1}, as was recorded, got {k_max}")
        run = node.clamp(min=0)
        token_ids = envelope.token_ids[run, 0]
        is_right = token_ids == positions.expected(rows, depth)
        is_accepted = is_accepted & is_known & is_right
        distribution = envelope.log_probs[run, :num_confidences]
        columns.append(
            (token_ids, distribution[:, 0], envelope.entropies[run], distribution, is_accepted)
        )
        node = envelope.children[run, 0].masked_fill(node < 0, -1)
    token_ids, log_probs, entropies, confidences, accepted = (
        torch.stack(column, dim=1) for column in zip(*columns, strict=True)
    )
    return Chains(token_ids, log_probs, entropies, confidences, accepted, num_known)


def round_starts(positions: Positions, num_accepted: Tensor) -> Tensor:
    """Where rounds begin, in order: [R] int64.

    Args:
        positions: Q of them.
        num_accepted: [Q] int64, of a round at each.
    """
    rows = torch.arange(len(positions))
    emitted = torch.minimum(num_accepted + 1, positions.num_left)
    after = torch.where(emitted < positions.num_left, rows + emitted, len(positions))
    return walk(after, positions)


def dp_lengths(trace: Trace, chains: Chains, cost: CostModel) -> Tensor:
    """The chain length, 0 to K, that a round at each position takes in the cheapest text: [Q]."""
    return dp(chain_choices(trace, chains, cost), trace.positions).members


def chain_choices(trace: Trace, chains: Chains, cost: CostModel) -> Choices:
    """Fixed chains of every length from 0 to K, at every position."""
    positions = trace.positions
    contexts = positions.num_tokens - 1
    is_tree = torch.zeros_like(contexts, dtype=torch.bool)
    emitted, accepted, seconds = [], [], []
    for length in range(chains.k_max + 1):
        drafted = (positions.remaining - 1).clamp(max=length)
        widths = (torch.arange(chains.k_max) < drafted.unsqueeze(1)).long()
        seconds.append(cost.round_seconds(RoundShapes(contexts, widths, drafted, is_tree)))
        accepted.append(torch.minimum(chains.lengths, drafted))
        emitted.append(torch.minimum(accepted[-1] + 1, positions.num_left))
    return Choices(torch.stack(emitted), torch.stack(accepted), torch.stack(seconds))


def dp_members(trace: Trace, family: Sequence[Policy], cost: CostModel) -> Tensor:
    """Which member of a family of fixed drafts, trees say, the cheapest text takes: [Q] int64."""
    return dp(choices(family, trace, cost), trace.positions).members
