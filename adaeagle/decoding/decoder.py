"""The decoder: rounds of texts side by side.

    prefill → [ plan → (expand → propose)* → select → verify → commit → observe ]* → text

It knows no concrete drafter and no concrete policy, and it alone decides which tokens are emitted.
Shapes: P texts side by side, N verified nodes, V vocabulary.
"""

from collections.abc import Callable
from collections.abc import Sequence as Many

import torch

from adaeagle.decoding.acceptance import Acceptance
from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.merging import LiveMerged
from adaeagle.decoding.proposals import LiveProposer, Reader, check_drafter
from adaeagle.decoding.results import outcome_of, pieces_of
from adaeagle.decoding.round import Drafted, draft_round
from adaeagle.decoding.row import Row, pending
from adaeagle.decoding.sampling import Sampling
from adaeagle.decoding.sequence import Sequence
from adaeagle.drafters.acceptance_watch import watch_acceptance
from adaeagle.drafters.base import Drafter, DraftSession, Pending, Verified
from adaeagle.models.target import Target
from adaeagle.policy import Context, Policy
from adaeagle.records import Piece
from adaeagle.tree import DraftTree, ancestors

ROOM = 64  # slots beyond the text that caches begin with, for a round's nodes


class Decoder:
    """Decodes texts side by side, all of them under one policy.

    Args:
        target: the model whose texts they are.
        drafter: proposes tokens; None is enough for a policy that never drafts.
        policy: how much to draft and in which shape.
        sampling: how tokens are chosen; each text brings its own seed.
        sequences: the first texts, not begun.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter | None,
        policy: Policy,
        sampling: Sampling,
        sequences: Many[Sequence],
    ) -> None:
        if policy.drafts:
            if drafter is None:
                raise ValueError(f"{type(policy).__name__} drafts: it needs a drafter, got None")
            check_drafter(policy, drafter)
        # A policy that never drafts pays for no drafter: neither for a session nor for features.
        self._drafter = drafter if policy.drafts else None
        self._target, self._policy, self._sampling = target, policy, sampling
        self._rows = [Row.of(sequence, target) for sequence in sequences]
        self._acceptance = Acceptance(sampling, target.vocab_size, target.device)
        capacity = max(len(each.prompt_ids) + each.limit for each in sequences) + ROOM
        layers = self._drafter.feature_layers if self._drafter else ()
        self._session = target.begin(len(sequences), capacity, layers)
        self._drafting: DraftSession | None = None
        if self._drafter is not None:
            prompts = [each.prompt_ids for each in sequences]
            self._drafting = self._drafter.begin(prompts, capacity)
        policy.reset()

    @torch.inference_mode()
    def prefill(self) -> list[Piece]:
        """Runs the prompts, one after another: each text's first token."""
        return [self._begin(place) for place in range(len(self._rows))]

    @torch.inference_mode()
    def replace(self, place: int, sequence: Sequence) -> Piece:
        """A text takes the place of one that has ended: its first token."""
        self._rows[place] = Row.of(sequence, self._target)
        if self._drafting is not None:
            self._drafting.replace(place, sequence.prompt_ids)
        return self._begin(place)

    @torch.inference_mode()
    def keep(self, places: Many[int]) -> None:
        """Goes on with some of the texts alone, ascending: the others have ended."""
        self._rows = [self._rows[place] for place in places]
        self._session.keep(places)
        if self._drafting is not None:
            self._drafting.keep(places)

    def _begin(self, place: int) -> Piece:
        clock, row = RoundClock(self._target.device), self._rows[place]
        features, logits = self._session.prefill(row.sequence.prompt_ids, place)
        root = DraftTree.empty(1, self._target.device)
        token = self._acceptance.first(row.sequence, row.process(logits[:, None], root))
        row.sequence.emit([token])
        row.commit(features.last[0], logits[0], features.chosen[0] if self._drafting else None)
        clock.ends("other")
        return Piece([token], clock.peek()["other"])

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One round of every text; one that has ended drafts and emits nothing."""
        clock, sequences = RoundClock(self._target.device), [row.sequence for row in self._rows]
        context, proposer = self._context(), self._proposer()
        drafted = draft_round(self._policy, proposer, context, clock)
        if drafted.tree.num_levels:
            for row in self._rows:
                row.unseen = []
        tree = drafted.verified(self._num_rows(drafted, context))
        paths = ancestors(tree)
        drafts = self._drafting if drafted.tree.num_levels else None
        extra = None if drafts is None else drafts.extra_rows()
        clock.ends("other")
        features, logits = self._session.verify(context.token_ids, tree, paths, extra)
        logits, extra_logits = logits.tensor_split([1 + len(tree)], dim=1)
        own_logits = logits
        if any(row.processors for row in self._rows):
            parts = [row.process(logits[p, None], tree.row(p)) for p, row in enumerate(self._rows)]
            logits = torch.cat(parts)
        verdicts = self._acceptance.accept(sequences, tree, paths, logits, proposer.distributions)
        clock.ends("verify")
        left = torch.tensor([each.remaining for each in sequences])
        emitted = [s.emit(found.emitted) for s, found in zip(sequences, verdicts, strict=True)]
        kept: list[list[int]] = []  # of each text, rows of the forward
        for place, (row, found) in enumerate(zip(self._rows, verdicts, strict=True)):
            kept.append([] if row.sequence.is_done else [0, *(node + 1 for node in found.rows)])
            if kept[-1]:
                chosen = features.chosen[place, kept[-1]] if self._drafting else None
                own = own_logits[place, kept[-1][-1]]
                row.commit(features.last[place, kept[-1]], own, chosen)
        self._session.commit(kept)
        if self._drafting is not None:
            accepted = [found.rows for found in verdicts]
            beside = None if extra is None else extra_logits
            self._drafting.verified(Verified(tree, accepted, logits, beside))
        if self._drafter is not None and len(tree) > 0:
            for found in verdicts:
                watch_acceptance(self._drafter, len(found.rows))
        clock.ends("other")
        if self._policy.learns:
            self._policy.observe(
                outcome_of(sequences, drafted, tree, verdicts, emitted, left, clock)
            )
            clock.ends("policy")
        for sequence in sequences:
            sequence.num_rounds += 1
        return pieces_of(drafted, tree, verdicts, emitted, proposer.num_forwards, clock)

    def _context(self) -> Context:
        sequences = [row.sequence for row in self._rows]
        pending_ids = [each.token_ids[-1] for each in sequences]
        return Context(
            round=min(each.num_rounds for each in sequences),
            num_tokens=torch.tensor([len(each) for each in sequences]),
            # At 1 there is nothing to draft, as for a text that has ended.
            remaining=torch.tensor([max(1, each.remaining) for each in sequences]),
            token_ids=torch.tensor(pending_ids, device=self._target.device),
            last_token_ids=torch.cat([row.last_id for row in self._rows]),
            features=torch.stack([row.last_feature for row in self._rows]),
            recent=lambda count: [each.tail(count) for each in sequences],
            target_log_probs=self._target_log_probs,
        )

    def _target_log_probs(self, count: int) -> torch.Tensor:
        logits = torch.stack([row.last_logits for row in self._rows])
        return logits.float().log_softmax(-1).topk(count).values

    def _proposer(self) -> LiveProposer | LiveMerged:
        noise = None
        if self._sampling.is_coupled:
            sequences = [row.sequence for row in self._rows]
            noise = lambda depth: self._acceptance.noise(sequences, depth)  # noqa: E731
        drafter, session = self._drafter, self._drafting
        generators = [row.draws for row in self._rows]

        def proposer(
            part: Drafter | None, over: DraftSession | None, unseen: Callable[[], Pending]
        ) -> LiveProposer:
            return LiveProposer(
                over,
                unseen,
                self._policy if part is drafter else Reader(self._policy.needs),
                self._sampling,
                generators,
                None if part is None else part.vocab_map,
                self._target.vocab_size,
                noise,
                None if part is None else part.max_depth,
            )

        whole = proposer(drafter, session, lambda: pending(self._rows))
        if drafter is None or session is None or session.beside is None:
            return whole
        network = proposer(drafter.parts[0], session.beside, session.pending_beside)
        return LiveMerged(network, whole, self._policy)

    def _num_rows(self, drafted: Drafted, context: Context) -> int | None:
        """How many nodes a round of static shape verifies; None: the device has to be asked."""
        budget, most = drafted.budget, drafted.keep.shape[1]
        is_whole = isinstance(budget.depth, int) and budget.depth < int(context.remaining.min()) - 1
        if self._policy.static_shape and isinstance(budget.nodes, int) and is_whole:
            return min(budget.nodes, most)
        return None
