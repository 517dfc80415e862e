"""The round: plan, draft, select, verify, commit, observe, until the text ends.

It knows no concrete drafter and no concrete policy, and it alone decides which tokens are emitted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaeagle.decoding.acceptance import Acceptance, Draft, outcome_of
from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.proposals import LiveProposer, clamp_budget, draft
from adaeagle.decoding.sampling import Sampling
from adaeagle.drafters.base import Drafter, DraftSession
from adaeagle.models.processors import build, process_paths
from adaeagle.models.target import Target, TargetSession
from adaeagle.policy import Budget, Context, Policy
from adaeagle.records import Piece, Round
from adaeagle.tree import DraftTree, ancestors

ROOM = 64  # slots beyond the text that caches begin with, for a round's nodes


@dataclass
class Decoding:
    """One text being decoded."""

    target: Target
    drafter: Drafter | None
    policy: Policy
    prompt_ids: list[int]
    sampling: Sampling
    limit: int
    stops: frozenset[int]
    num_emitted: int = 0
    is_done: bool = False
    # What the draft model has not seen yet: tokens, and features of the positions before them.
    pending_ids: list[Tensor] = field(default_factory=list)
    pending_features: list[Tensor] = field(default_factory=list)
    drafting: DraftSession | None = None

    # As a decorator it holds only while the generator runs: between two pieces the reader's own
    # mode is back, and streams may take turns.
    @torch.inference_mode()
    def pieces(self) -> Iterator[Piece]:
        self._setup()
        clock = RoundClock(self.target.device)
        root = self._prefill()
        clock.ends("other")
        yield Piece([int(root)], clock.peek()["other"])
        number = 0
        while not self.is_done:
            # Time spent by the reader between two pieces is not the round's.
            clock = RoundClock(self.target.device)
            root, tokens, record = self._round(number, root, clock)
            number += 1
            yield Piece(tokens, record.seconds, record)

    def _setup(self) -> None:
        self.policy.reset()
        device = self.target.device
        self.processors = build(
            self.target.model.generation_config,
            len(self.prompt_ids),
            len(self.prompt_ids) + self.limit,
            self.stops,
            device,
        )
        self.text_ids = list(self.prompt_ids)  # and what is emitted
        self.acceptance = Acceptance(self.sampling, self.target.vocab_size, device)
        self.noise = torch.Generator(device).manual_seed(self.sampling.seed + 1)
        capacity = len(self.prompt_ids) + self.limit + ROOM
        layers = () if self.drafter is None else self.drafter.feature_layers
        self.session: TargetSession = self.target.begin(self.prompt_ids, capacity, layers)
        if self.drafter is not None:
            self.drafting = self.drafter.begin(self.prompt_ids, capacity)

    def _prefill(self) -> Tensor:
        features, logits = self.session.prefill()
        logits = self._processed(logits.unsqueeze(1), DraftTree.empty(1, self.target.device))
        root = self.acceptance.first(logits, len(self.prompt_ids))
        prompt = self.session.prompt_ids
        self._remember(torch.cat((prompt[:, 1:], root.view(1, 1)), dim=1), features.chosen)
        self.last_ids, self.last_features = prompt[:, -1], features.last[:, -1]
        self._finish([int(root)])
        return root

    def _round(
        self, number: int, root: Tensor, clock: RoundClock
    ) -> tuple[Tensor, list[int], Round]:
        context = self._context(number, root)
        clock.ends("other")
        budget = self.policy.plan(context)
        clock.ends("policy")
        budget = clamp_budget(budget, context.remaining)
        drafted = self._draft(budget, clock)
        tree = drafted.tree
        paths = ancestors(tree)
        clock.ends("other")
        features, logits = self.session.verify(root, tree, paths)
        logits = self._processed(logits, tree)
        verdict = self.acceptance.accept(drafted, paths, logits)
        clock.ends("verify")
        kept = [0, *(row + 1 for row in verdict.rows)]
        emitted = self._finish(verdict.emitted)
        new_ids = torch.tensor([verdict.emitted], device=self.target.device)
        new_root = new_ids[:, -1]
        if not self.is_done:
            self.session.commit(kept)
            self._remember(new_ids, _rows(features.chosen, kept))
            self.last_ids = new_ids[:, -2] if len(kept) > 1 else root
            self.last_features = features.last[:, kept[-1]]
        clock.ends("other")
        if self.policy.learns:
            self.policy.observe(outcome_of(drafted, verdict, len(emitted), clock.peek()))
            clock.ends("policy")
        seconds = clock.peek()
        record = Round(
            depth=drafted.depth,
            num_drafted=drafted.num_drafted,
            num_verified=len(tree),
            num_accepted=min(len(verdict.rows), len(emitted)),
            num_emitted=len(emitted),
            draft_seconds=seconds["draft"],
            verify_seconds=seconds["verify"],
            policy_seconds=seconds["policy"],
            other_seconds=seconds["other"],
            draft_forward_seconds=tuple(s for part, s in clock.spans() if part == "draft"),
        )
        return new_root, emitted, record

    def _context(self, number: int, root: Tensor) -> Context:
        return Context(
            round=number,
            num_tokens=torch.tensor([len(self.prompt_ids) + self.num_emitted]),
            remaining=torch.tensor([self.limit - self.num_emitted]),
            token_ids=root.view(1),
            last_token_ids=self.last_ids,
            features=self.last_features,
            recent=self._recent,
        )

    def _recent(self, count: int) -> list[list[int]]:
        return [self.text_ids[-count:]]

    def _draft(self, budget: Budget, clock: RoundClock) -> Draft:
        device = self.target.device
        depth = budget.depth if isinstance(budget.depth, int) else int(budget.depth.max())
        noise = self.acceptance.noise(len(self.prompt_ids) + self.num_emitted, depth)
        if depth == 0:
            return Draft(DraftTree.empty(1, device), 0, 0, None, noise)
        if self.drafting is None or self.drafter is None:
            raise ValueError(f"{type(self.policy).__name__} drafts: it needs a drafter, got None")
        features = None
        if self.drafter.feature_layers:
            features = torch.cat(self.pending_features, dim=1)
        proposer = LiveProposer(
            self.drafting,
            (torch.cat(self.pending_ids, dim=1), features),
            self.policy.proposal,
            self.sampling,
            self.noise,
            self.policy.needs_entropy,
            self.drafter.vocab_map,
            self.target.vocab_size,
            noise,
            self.policy.num_confidences,
        )
        tree = draft(self.policy, proposer, budget, 1, device, clock)
        if tree.num_levels:
            self.pending_ids.clear()
            self.pending_features.clear()
        num_drafted = len(tree) if tree.is_dense else int(tree.valid.sum())
        distributions = proposer.distributions
        # A drawn token must be verified: leaving it out would change the distribution of the text.
        keep = tree.valid if distributions is not None else self.policy.select(tree, budget)
        clock.ends("policy")
        if not (keep is tree.valid and tree.is_dense):
            tree = tree.take(keep, self._num_rows(keep, budget))
        return Draft(tree, num_drafted, tree.num_levels, distributions, noise)

    def _num_rows(self, keep: Tensor, budget: Budget) -> int:
        # Close to its limit a text may cut a round short, which then has fewer nodes than planned.
        is_whole = (
            isinstance(budget.depth, int) and budget.depth < self.limit - self.num_emitted - 1
        )
        if self.policy.static_shape and isinstance(budget.nodes, int) and is_whole:
            return min(budget.nodes, keep.shape[1])
        return int(keep.sum(1).max())  # one host sync a round

    def _processed(self, logits: Tensor, tree: DraftTree) -> Tensor:
        """Logits [1, N+1, V] after what the generation config asks for."""
        if not self.processors:
            return logits
        return process_paths(self.processors, logits, self.text_ids, tree)

    def _finish(self, tokens: list[int]) -> list[int]:
        """What of `tokens` is emitted: up to the limit, and to the first stop token."""
        emitted = tokens[: self.limit - self.num_emitted]
        for place, token in enumerate(emitted):
            if token in self.stops:
                emitted = emitted[: place + 1]
                self.is_done = True
                break
        self.num_emitted += len(emitted)
        self.text_ids += emitted
        self.is_done = self.is_done or self.num_emitted >= self.limit
        return emitted

    def _remember(self, token_ids: Tensor, features: Tensor) -> None:
        if self.drafting is not None:
            self.pending_ids.append(token_ids)
            self.pending_features.append(features)


def _rows(values: Tensor, rows: list[int]) -> Tensor:
    """Those rows of [1, R, D], ascending from 0; a view where they follow each other."""
    if rows[-1] == len(rows) - 1:
        return values[:, : len(rows)]
    return values.index_select(1, torch.tensor(rows, device=values.device))
