"""The decoder: rounds of texts side by side.

    prefill → [ plan → (expand → propose)* → select → verify → commit → observe ]* → text

It knows no concrete drafter and no concrete policy, and it alone decides which tokens are emitted.
Shapes: P texts side by side, N verified nodes, V vocabulary, D size of a target's features.
"""

from collections.abc import Sequence as Many

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adaeagle.decoding.acceptance import Acceptance, Verdict
from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.proposals import LiveProposer, Pending
from adaeagle.decoding.round import Drafted, draft_round
from adaeagle.decoding.sampling import Sampling
from adaeagle.decoding.sequence import Sequence
from adaeagle.drafters.base import Drafter, DraftSession, Verified
from adaeagle.models.backbone import Features
from adaeagle.models.processors import build, process_paths
from adaeagle.models.target import Target
from adaeagle.policy import Context, Outcome, Policy
from adaeagle.records import Piece, Round
from adaeagle.tree import DraftTree, ancestors

ROOM = 64  # slots beyond the text that caches begin with, for a round's nodes


class Decoder:
    """Decodes texts side by side, all of them under one policy.

    Args:
        target: the model whose texts they are.
        drafter: proposes tokens; None is enough for a policy that never drafts.
        policy: how much to draft and in which shape.
        sampling: how tokens are chosen; each text brings its own seed.
        sequences: the texts, not begun.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter | None,
        policy: Policy,
        sampling: Sampling,
        sequences: Many[Sequence],
    ) -> None:
        if policy.drafts and drafter is None:
            raise ValueError(f"{type(policy).__name__} drafts: it needs a drafter, got None")
        # A policy that never drafts pays for no drafter: neither for a session nor for features.
        self._drafter = drafter if policy.drafts else None
        self._target, self._policy, self._sampling = target, policy, sampling
        self._sequences = list(sequences)
        self._acceptance = Acceptance(sampling, target.vocab_size, target.device)
        capacity = max(len(each.prompt_ids) + each.limit for each in sequences) + ROOM
        layers = self._drafter.feature_layers if self._drafter else ()
        self._session = target.begin(len(sequences), capacity, layers)
        self._drafting: DraftSession | None = None
        if self._drafter is not None:
            prompts = [each.prompt_ids for each in sequences]
            self._drafting = self._drafter.begin(prompts, capacity)
        # What the drafter has not seen of each text: tokens, and features of those before them.
        self._unseen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in sequences]
        self._draws = [
            torch.Generator(target.device).manual_seed(each.seed + 1) for each in sequences
        ]
        self._processors = [
            build(
                target.model.generation_config,
                len(each.prompt_ids),
                len(each.prompt_ids) + each.limit,
                each.stop_token_ids,
                target.device,
            )
            for each in sequences
        ]
        # Of the last committed token of each text: itself, and the target's feature of it.
        self._last_ids: list[Tensor] = []  # [1] each
        self._last_features: list[Tensor] = []  # [D] each
        policy.reset()

    @torch.inference_mode()
    def prefill(self) -> list[Piece]:
        """Runs the prompts, one after another: each text's first token."""
        device, pieces = self._target.device, []
        for row, sequence in enumerate(self._sequences):
            clock, prompt_ids = RoundClock(device), sequence.prompt_ids
            features, logits = self._session.prefill(prompt_ids, row)
            root = DraftTree.empty(1, device)
            token = self._acceptance.first(sequence, self._process(row, logits[:, None], root))
            ids = torch.tensor([*prompt_ids, token], device=device)
            self._remember(row, ids[1:], features.chosen[0])
            self._last_ids.append(ids[-2:-1])
            self._last_features.append(features.last[0, -1])
            sequence.emit([token])
            clock.ends("other")
            pieces.append(Piece([token], clock.peek()["other"]))
        return pieces

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One round of every text; one that is done drafts and emits nothing."""
        clock = RoundClock(self._target.device)
        context, proposer = self._context(), self._proposer()
        drafted = draft_round(self._policy, proposer, context, clock)
        if drafted.tree.num_levels:
            self._unseen = [[] for _ in self._sequences]
        tree = drafted.verified(self._num_rows(drafted, context))
        paths = ancestors(tree)
        extra = self._drafting.extra_rows() if self._drafting and len(tree) else None
        clock.ends("other")
        features, logits = self._session.verify(context.token_ids, tree, paths, extra)
        logits, extra_logits = logits.tensor_split([1 + len(tree)], dim=1)
        if any(self._processors):
            rows = range(len(logits))
            logits = torch.cat([self._process(r, logits[r, None], tree.row(r)) for r in rows])
        verdicts = self._acceptance.accept(
            self._sequences, tree, paths, logits, proposer.distributions
        )
        clock.ends("verify")
        left = torch.tensor([0 if each.is_done else each.remaining for each in self._sequences])
        emitted = [
            [] if each.is_done else each.emit(verdict.emitted)
            for each, verdict in zip(self._sequences, verdicts, strict=True)
        ]
        self._commit(features, tree, verdicts, emitted)
        if self._drafting is not None:
            accepted = [verdict.rows for verdict in verdicts]
            self._drafting.verified(Verified(tree, accepted, logits, extra_logits))
        clock.ends("other")
        if self._policy.learns:
            self._policy.observe(self._outcome(drafted, tree, verdicts, emitted, left, clock))
            clock.ends("policy")
        return self._pieces(drafted, tree, verdicts, emitted, proposer.num_forwards, clock)

    def _context(self) -> Context:
        sequences = self._sequences
        pending = [each.token_ids[-1] for each in sequences]
        return Context(
            round=sequences[0].num_rounds,
            num_tokens=torch.tensor([len(each) for each in sequences]),
            # At 1 there is nothing to draft, as for a text that is done.
            remaining=torch.tensor([1 if each.is_done else each.remaining for each in sequences]),
            token_ids=torch.tensor(pending, device=self._target.device),
            last_token_ids=torch.cat(self._last_ids),
            features=torch.stack(self._last_features),
            recent=lambda count: [each.tail(count) for each in sequences],
        )

    def _proposer(self) -> LiveProposer:
        noise = None
        if self._sampling.is_coupled:
            noise = lambda depth: self._acceptance.noise(self._sequences, depth)  # noqa: E731
        return LiveProposer(
            self._drafting,
            self._pending,
            self._policy,
            self._sampling,
            self._draws,
            None if self._drafter is None else self._drafter.vocab_map,
            self._target.vocab_size,
            noise,
        )

    def _pending(self) -> Pending:
        """What the drafter has not seen, padded behind where texts differ."""
        token_ids, features = [], []
        for unseen in self._unseen:
            ids, states = zip(*unseen, strict=True) if unseen else ((), ())
            empty = torch.zeros(0, dtype=torch.int64, device=self._target.device)
            token_ids.append(torch.cat((empty, *ids)))
            features.append(torch.cat(states) if states else None)
        counts = [len(ids) for ids in token_ids]
        width = next((len(each[0]) for each in features if each is not None and len(each)), 0)
        padded = pad_sequence(token_ids, batch_first=True)
        if width == 0:
            return padded, None, counts
        rows = [padded.new_zeros(0, width) if each is None else each for each in features]
        return padded, pad_sequence(rows, batch_first=True), counts

    def _num_rows(self, drafted: Drafted, context: Context) -> int | None:
        """How many nodes a round of static shape verifies; None: the device has to be asked."""
        budget, most = drafted.budget, drafted.keep.shape[1]
        is_whole = isinstance(budget.depth, int) and budget.depth < int(context.remaining.min()) - 1
        if self._policy.static_shape and isinstance(budget.nodes, int) and is_whole:
            return min(budget.nodes, most)
        return None

    def _process(self, row: int, logits: Tensor, tree: DraftTree) -> Tensor:
        """One text's logits [1, N+1, V] after what the generation config asks for."""
        if not self._processors[row]:
            return logits
        sequence = self._sequences[row]
        text_ids = sequence.prompt_ids + sequence.token_ids
        return process_paths(self._processors[row], logits, text_ids, tree)

    def _commit(
        self,
        features: Features,
        tree: DraftTree,
        verdicts: list[Verdict],
        emitted: list[list[int]],
    ) -> None:
        """Keeps the accepted paths, and what the next round and the drafter need of them."""
        device = self._target.device
        kept: list[list[int]] = []
        for row, (sequence, verdict) in enumerate(zip(self._sequences, verdicts, strict=True)):
            if sequence.is_done:
                kept.append([])
                continue
            rows = [0, *(node + 1 for node in verdict.rows)]
            kept.append(rows)
            ids = torch.tensor([*sequence.tail(len(rows) + 1)], device=device)
            self._remember(row, ids[1:], features.chosen[row, rows])
            self._last_ids[row] = ids[-2:-1]
            self._last_features[row] = features.last[row, rows[-1]]
        self._session.commit(kept)

    def _remember(self, row: int, token_ids: Tensor, features: Tensor) -> None:
        if self._drafting is not None:
            self._unseen[row].append((token_ids, features))

    def _outcome(
        self,
        drafted: Drafted,
        tree: DraftTree,
        verdicts: list[Verdict],
        emitted: list[list[int]],
        left: Tensor,
        clock: RoundClock,
    ) -> Outcome:
        accepted, tested = torch.zeros_like(tree.valid), torch.zeros_like(tree.valid)
        for row, verdict in enumerate(verdicts):
            accepted[row, verdict.rows] = True
            tested[row, verdict.tested or []] = True
        ends = torch.tensor([each.is_done for each in self._sequences])
        counts = torch.tensor([len(tokens) for tokens in emitted])
        seconds = clock.peek()
        ones = torch.ones(len(verdicts), dtype=torch.float64)
        return Outcome.of(
            tree,
            accepted,
            torch.where(ends, counts, left),
            depth=torch.full_like(left, drafted.tree.num_levels),
            draft_seconds=ones * seconds["draft"],
            verify_seconds=ones * seconds["verify"],
            tested=None if verdicts[0].tested is None else tested,
        )

    def _pieces(
        self,
        drafted: Drafted,
        tree: DraftTree,
        verdicts: list[Verdict],
        emitted: list[list[int]],
        num_forwards: int,
        clock: RoundClock,
    ) -> list[Piece]:
        """What each text emits, with its record; seconds are those of the texts' common round."""
        whole = drafted.tree
        num_drafted, num_verified = (
            [len(each)] * len(verdicts) if each.is_dense else each.valid.sum(1).tolist()
            for each in (whole, tree)
        )
        seconds, pieces = clock.peek(), []
        forwards = tuple(spent for part, spent in clock.spans() if part == "draft")
        for row, (sequence, verdict, tokens) in enumerate(
            zip(self._sequences, verdicts, emitted, strict=True)
        ):
            sequence.num_rounds += 1
            record = Round(
                depth=whole.num_levels,
                draft_forwards=num_forwards,
                num_drafted=num_drafted[row],
                num_verified=num_verified[row],
                num_accepted=min(len(verdict.rows), len(tokens)),
                num_emitted=len(tokens),
                draft_seconds=seconds["draft"],
                verify_seconds=seconds["verify"],
                policy_seconds=seconds["policy"],
                other_seconds=seconds["other"],
                draft_forward_seconds=forwards,
            )
            pieces.append(Piece(tokens, record.seconds, record))
        return pieces
