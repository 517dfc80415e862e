"""Growing a draft tree: the loop between a policy and whatever proposes children.

Live decoding proposes from a draft model; a replay proposes from what was recorded.
Shapes: P rounds, F frontier nodes, W expanded nodes, C children of each, V vocabulary,
E draft rows.
"""

from array import array
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.sampling import Sampling
from adaeagle.drafters.base import DraftSession
from adaeagle.policy import Budget, Policy, Proposal
from adaeagle.tree import ROOT, DraftTree, Level, consecutive


class Proposer(Protocol):
    """What the drafting loop asks for children."""

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        """One draft forward: the best `num_ranks` children of `rows` [P, W] (-1: the root).

        Rows that get 0 of `num_children` [P, W] are padding; None: there is none.
        """
        ...


def clamp_budget(budget: Budget, remaining: Tensor) -> Budget:
    """A round of depth d emits up to d + 1 tokens: no deeper than what may still be emitted."""
    if remaining.shape[0] == 1:  # one number, so that the loop need not ask the device for it
        least = int(remaining.item()) - 1
        is_within = isinstance(budget.depth, int) and budget.depth <= least
        return budget if is_within else replace(budget, depth=min(int(budget.depth), least))
    if isinstance(budget.depth, int):
        if budget.depth < int(remaining.min()):
            return budget
        return replace(budget, depth=(remaining - 1).clamp(max=budget.depth))
    return replace(budget, depth=torch.minimum(budget.depth.to(remaining.device), remaining - 1))


def draft(
    policy: Policy,
    proposer: Proposer,
    budget: Budget,
    num_rounds: int,
    device: torch.device,
    clock: RoundClock,
) -> DraftTree:
    """Asks the policy where to go on, and the proposer what follows, until either has enough."""
    tree = DraftTree.empty(num_rounds, device)
    frontier = torch.full((num_rounds, 1), ROOT, dtype=torch.int64, device=device)
    depths = budget.depth
    max_depth = depths if isinstance(depths, int) else int(depths.max())
    clock.ends("other")  # what was made ready for drafting
    for level in range(max_depth):
        num_children = policy.expand(tree, frontier, budget)
        if not tree.is_dense:  # padding has no children, whatever the policy says
            num_children = num_children * tree.of_level(-1, "valid")
        if not isinstance(depths, int):
            num_children = num_children * (depths.to(device) > level).unsqueeze(1)
        static_shape = policy.static_shape and isinstance(depths, int)
        opened = _opened(frontier, num_children, budget, level, static_shape)
        if opened is None:
            break
        # Asking how wide the forward is belongs to a policy that may stop: others need not ask.
        clock.ends("policy")
        rows, counts = opened
        proposed = proposer.propose(tree, rows, budget.max_children, counts)
        num_before = len(tree)
        tree = tree.grow(proposed if counts is None else replace(proposed, num_children=counts))
        frontier = consecutive(num_before, len(tree), device).expand(num_rounds, -1)
        clock.ends("draft")
    return tree


def _opened(
    frontier: Tensor, num_children: Tensor, budget: Budget, level: int, static_shape: bool
) -> tuple[Tensor, Tensor | None] | None:
    """The frontier nodes to run, [P, W], and how many children each gets; None where none is open.

    Children counts are None where every opened node gets all of `max_children`.
    """
    is_chain = frontier.shape[1] == budget.max_children == 1
    if static_shape and is_chain:
        return frontier, None
    if len(frontier) == 1 and frontier.is_cpu and num_children.is_cpu:
        return _opened_alone(frontier, num_children, budget, level)
    if static_shape:
        num_open, is_full = min(budget.width_of(level), frontier.shape[1]), False
        # On the host nothing waits for an answer, and many rounds share what it saves.
        if frontier.is_cpu:
            full = np.flatnonzero(num_children.numpy() == budget.max_children)
            if len(full) == num_open * len(frontier):
                # The frontier is a level's rows, the same in every round.
                rows = torch.from_numpy(full % frontier.shape[1] + int(frontier[0, 0]))
                return rows.view(-1, num_open), None
    elif num_children.numel() == 1:  # one text's chain: asked at every level, so in one operation
        count = int(num_children)
        num_open, is_full = 1, count == budget.max_children
        if count == 0:
            return None
    else:
        # One host sync a level: a policy that may stop decides how wide the forward is.
        is_open = num_children > 0
        num_full = (num_children == budget.max_children).sum()
        asked = torch.stack((*is_open.sum(1).aminmax(), num_full))
        least, most, total_full = asked.tolist()
        num_open = min(most, budget.width_of(level))
        if num_open == 0:
            return None
        is_even = least == num_open == most
        is_full = is_even and total_full == most * len(num_children)
    if is_full and num_open < frontier.shape[1]:
        return frontier.masked_select(num_children > 0).view(-1, num_open), None
    if num_open == frontier.shape[1]:
        rows, counts = frontier, num_children
    else:
        order = torch.argsort(num_children > 0, dim=1, descending=True, stable=True)[:, :num_open]
        rows, counts = frontier.gather(1, order), num_children.gather(1, order)
    return rows, None if is_full else counts.clamp(max=budget.max_children)


def _opened_alone(
    frontier: Tensor, num_children: Tensor, budget: Budget, level: int
) -> tuple[Tensor, Tensor | None] | None:
    """The same for one text on the host: its few numbers are looked at one by one."""
    most = budget.max_children
    if num_children.numel() == 1 and num_children.item() == most:  # a chain that goes on
        return frontier, None
    [counts] = num_children.tolist()
    opened = [place for place, count in enumerate(counts) if count > 0][: budget.width_of(level)]
    if not opened:
        return None
    rows = frontier
    if len(opened) < len(counts):
        [ids] = frontier.tolist()
        rows = _row([ids[place] for place in opened])
    if all(counts[place] >= most for place in opened):
        return rows, None
    return rows, _row([min(counts[place], most) for place in opened])


def _row(values: list[int]) -> Tensor:
    """[1, W] int64; `torch.tensor` takes twice as long."""
    return torch.frombuffer(array("q", values), dtype=torch.int64).unsqueeze(0)


def best(
    logits: Tensor, num_ranks: int, needs_entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The likeliest tokens of distributions [..., V]: ids and log-probs [..., num_ranks], entropies
    [...].

    Log-probs are float32, whatever the dtype of the logits.
    """
    ids = logits.topk(num_ranks, dim=-1).indices
    log_probs = logits.log_softmax(-1, dtype=torch.float32)
    entropies = entropy(log_probs) if needs_entropy else None
    return ids, log_probs.gather(-1, ids), entropies


def entropy(log_probs: Tensor) -> Tensor:
    """Of distributions [..., V], in nats: [...]."""
    entropies: Tensor = torch.special.entr(log_probs.exp()).sum(-1)
    return entropies


class LiveProposer:
    """Proposes from a draft model's session.

    Args:
        session: the draft model on one text.
        pending: tokens the session has not seen, and the target's features before each of them.
        proposal: `top_k`, or `draw` without replacement from the processed draft distribution.
        sampling: the processing, for `draw`.
        generator: of the draws, on the session's device.
        needs_entropy: compute `Level.entropies`.
        num_confidences: of `Level.confidences`.
        vocab_map: [V of the draft] target token ids, where the drafter has a vocabulary of its own.
        vocab_size: of the target, where there is a `vocab_map`.
        noise: [depth, V of the target] that picks the target's token of each level, in coupled
            sampling; None otherwise.
    """

    def __init__(
        self,
        session: DraftSession,
        pending: tuple[Tensor, Tensor | None],
        proposal: Proposal,
        sampling: Sampling,
        generator: torch.Generator,
        needs_entropy: bool,
        vocab_map: Tensor | None = None,
        vocab_size: int = 0,
        noise: Tensor | None = None,
        num_confidences: int = 0,
    ) -> None:
        self._session = session
        self._pending = pending
        self._is_drawn = proposal == "draw" and not sampling.is_greedy and noise is None
        self._sampling = sampling
        self._generator = generator
        self._needs_entropy = needs_entropy
        self._vocab_map = vocab_map
        self._vocab_size = vocab_size
        self._noise = noise
        self._num_confidences = num_confidences
        self._distributions: list[Tensor] = []

    @property
    def distributions(self) -> Tensor | None:
        """[E, V of the target] the distribution of every draft row, where children were drawn.

        Else None.
        """
        if not self._distributions:
            return None
        distributions = torch.cat(self._distributions)
        if self._vocab_map is None:
            return distributions
        # Tokens outside the draft vocabulary are never drawn.
        full = distributions.new_zeros(distributions.shape[0], self._vocab_size)
        return full.index_copy_(1, self._vocab_map, distributions)

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        if len(tree) == 0:
            logits = self._session.catch_up(*self._pending)
        else:
            logits = self._session.extend(tree.at("token_ids", rows), tree.at("origins", rows))
        num_ranks = min(num_ranks, logits.shape[-1])
        entropies = confidences = None
        if self._is_drawn:
            log_probs = self._sampling.log_probs(logits)
            self._distributions.append(log_probs.exp().flatten(0, 1))
            noise = torch.empty_like(log_probs).exponential_(generator=self._generator).log_()
            # Gumbel top-k: the order of the perturbed scores is a draw without replacement.
            ids = (log_probs - noise).topk(num_ranks, dim=-1).indices
            chosen = log_probs.gather(-1, ids)
            if self._needs_entropy:
                entropies = entropy(log_probs)
            if self._num_confidences:
                confidences = log_probs.topk(min(self._num_confidences, logits.shape[-1])).values
        else:
            if self._noise is not None:
                logits = self._coupled(logits, tree)
            num_best = min(max(num_ranks, self._num_confidences), logits.shape[-1])
            ids, chosen, entropies = best(logits, num_best, self._needs_entropy)
            if self._num_confidences:
                confidences = chosen[..., : self._num_confidences]
                ids, chosen = ids[..., :num_ranks], chosen[..., :num_ranks]
        if confidences is not None:  # a vocabulary may be smaller
            missing = self._num_confidences - confidences.shape[-1]
            confidences = F.pad(confidences, (0, missing), value=-torch.inf)
        if self._vocab_map is not None:
            ids = self._vocab_map[ids]
        return Level(rows, ids, chosen, entropies=entropies, confidences=confidences)

    def _coupled(self, logits: Tensor, tree: DraftTree) -> Tensor:
        """What the noise that will pick the target's tokens makes of the draft's distribution, [P,
        W, V].

        Confidences are then those of tokens under this noise: a token that the draft finds likely
        is not to be expected where the noise speaks against it.
        """
        assert self._noise is not None
        noise = self._noise[tree.num_levels]
        if self._vocab_map is not None:
            noise = noise[self._vocab_map]
        return self._sampling.log_probs(logits) + noise
