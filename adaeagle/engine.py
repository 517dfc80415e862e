"""The round: plan, draft, select, verify, commit, observe, until the text ends.

It knows no concrete drafter and no concrete policy, and it alone decides which tokens are emitted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle import verify
from adaeagle.clock import RoundClock
from adaeagle.coupling import gumbel_noise
from adaeagle.drafters.base import Drafter, DraftSession
from adaeagle.drafting import LiveProposer, clamp_budget, draft
from adaeagle.identity import identify
from adaeagle.policy import Budget, Context, Outcome, Policy
from adaeagle.processors import build, process_paths
from adaeagle.records import Generation, Piece, Round
from adaeagle.registry import get_policy
from adaeagle.sampling import Sampling, SamplingMode
from adaeagle.target import Target, TargetSession
from adaeagle.tree import DraftTree, ancestors

ROOM = 64  # slots beyond the text that caches begin with, for a round's nodes


def generate(
    target: Target,
    drafter: Drafter | None,
    policy: Policy | str,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    sampling: SamplingMode = "rejection",
    seed: int = 0,
    stop_token_ids: Sequence[int] | None = None,
) -> Generation:
    """Continues a prompt; the text does not depend on drafter or policy, its speed does.

    Args:
        target: the model whose text it is.
        drafter: proposes tokens; None is enough for a policy that never drafts.
        policy: how much to draft and in which shape, as an object or a spec for `get_policy`.
        prompt_ids: at least one token.
        max_new_tokens: most tokens to emit; the target's `max_length` limits prompt and text.
        temperature: 0 takes the likeliest token.
        top_p: see `Sampling`.
        top_k: see `Sampling`.
        sampling: how drafted tokens are accepted at a temperature above 0: `rejection` keeps the
            target's law; `coupled` lets the seed alone decide the text, and accepts less.
        seed: of everything random in this text.
        stop_token_ids: end the text, and are its last token; None: the model's own; []: never.

    Raises:
        ValueError: an argument is out of its range, or the prompt fills the context.
    """
    pieces = stream(
        target,
        drafter,
        policy,
        prompt_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        sampling=sampling,
        seed=seed,
        stop_token_ids=stop_token_ids,
    )
    first, *rest = pieces
    return Generation(
        token_ids=first.token_ids + [token for piece in rest for token in piece.token_ids],
        rounds=[piece.round for piece in rest if piece.round is not None],
        seconds=first.seconds + sum(piece.seconds for piece in rest),
        prefill_seconds=first.seconds,
    )


def stream(
    target: Target,
    drafter: Drafter | None,
    policy: Policy | str,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    sampling: SamplingMode = "rejection",
    seed: int = 0,
    stop_token_ids: Sequence[int] | None = None,
) -> Iterator[Piece]:
    """Like `generate`, a piece at a time: the prefill's token first, then each round's."""
    law = Sampling(temperature, top_p, top_k, sampling, seed)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be >= 1, got {max_new_tokens}")
    if len(prompt_ids) < 1:
        raise ValueError("prompt_ids must hold at least one token, got none")
    if len(prompt_ids) >= target.max_length:
        raise ValueError(
            f"prompt_ids must be shorter than the context of {target.max_length} tokens, "
            f"got {len(prompt_ids)}"
        )
    low, high = min(prompt_ids), max(prompt_ids)
    if low < 0 or high >= target.vocab_size:
        raise ValueError(
            f"prompt_ids must be in 0..{target.vocab_size - 1}, got {low if low < 0 else high}"
        )
    target.check_processors(law.is_greedy)
    limit = min(max_new_tokens, target.max_length - len(prompt_ids))
    stops = target.eos_token_ids if stop_token_ids is None else tuple(stop_token_ids)
    policy = get_policy(policy)
    policy.check(partial(identify, target, drafter))
    decoding = _Decoding(target, drafter, policy, list(prompt_ids), law, limit, frozenset(stops))
    return decoding.pieces()


@dataclass(slots=True)
class _Draft:
    """One round's tree as it goes to verification."""

    tree: DraftTree
    num_drafted: int
    depth: int
    laws: Tensor | None  # [E, V] of the draft rows, where children were drawn
    noise: Tensor | None = None  # [depth + 1, V] of the round's positions, in coupled sampling


@dataclass(slots=True)
class _Verdict:
    """One round's verification, on the host."""

    rows: list[int]  # accepted nodes, from the root down
    tested: list[int] | None  # nodes tried; None: whatever hangs from an accepted node
    emitted: list[int]  # accepted tokens and the bonus


@dataclass
class _Decoding:
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
        self.uniforms = torch.Generator().manual_seed(self.sampling.seed)
        self.noise = torch.Generator(device).manual_seed(self.sampling.seed + 1)
        capacity = len(self.prompt_ids) + self.limit + ROOM
        layers = () if self.drafter is None else self.drafter.feature_layers
        self.session: TargetSession = self.target.begin(self.prompt_ids, capacity, layers)
        if self.drafter is not None:
            self.drafting = self.drafter.begin(self.prompt_ids, capacity)

    def _prefill(self) -> Tensor:
        features, logits = self.session.prefill()
        nothing = DraftTree.empty(1, self.target.device)
        logits = self._processed(logits.unsqueeze(1), nothing)
        if self.sampling.is_greedy or self.sampling.is_coupled:
            root = self._said(logits, nothing, self._coupling(0))[0]
        else:
            root = self._sample(self.sampling.log_probs(logits)[0, 0].exp())
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
        budget = clamp_budget(self.policy.plan(context), context.remaining)
        clock.ends("policy")
        drafted = self._draft(budget, clock)
        tree = drafted.tree
        paths = ancestors(tree)
        clock.ends("other")
        features, logits = self.session.verify(root, tree, paths)
        logits = self._processed(logits, tree)
        verdict = self._accept(drafted, paths, logits)
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
        self._observe(drafted, verdict, len(emitted), clock)
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

    def _draft(self, budget: Budget, clock: RoundClock) -> _Draft:
        device = self.target.device
        depth = budget.depth if isinstance(budget.depth, int) else int(budget.depth.max())
        noise = self._coupling(depth)
        if depth == 0:
            return _Draft(DraftTree.empty(1, device), 0, 0, None, noise)
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
        laws = proposer.laws
        # A drawn token must be verified: leaving it out would change the law of the text.
        keep = tree.valid if laws is not None else self.policy.select(tree, budget)
        clock.ends("policy")
        if not (keep is tree.valid and tree.is_dense):
            tree = tree.take(keep, self._num_rows(keep, budget))
        return _Draft(tree, num_drafted, tree.num_levels, laws, noise)

    def _num_rows(self, keep: Tensor, budget: Budget) -> int:
        # Close to its limit a text may cut a round short, which then has fewer nodes than planned.
        is_whole = (
            isinstance(budget.depth, int) and budget.depth < self.limit - self.num_emitted - 1
        )
        if self.policy.fixed_shape and isinstance(budget.nodes, int) and is_whole:
            return min(budget.nodes, keep.shape[1])
        return int(keep.sum(1).max())  # one host sync a round

    def _accept(self, drafted: _Draft, paths: Tensor, logits: Tensor) -> _Verdict:
        tree = drafted.tree
        if not (self.sampling.is_greedy or self.sampling.is_coupled):
            return self._accept_sampled(drafted, logits)
        said = self._said(logits, tree, drafted.noise)
        if len(tree) == 0:
            return _Verdict([], None, said[0].tolist())
        accepted = verify.greedy(tree, paths, said)
        # The round's one host sync where shapes are fixed.
        host = torch.cat((accepted.long(), said), dim=1)[0].tolist()
        rows = [row for row in range(len(tree)) if host[row]]
        said_host = host[len(tree) :]
        # What the target said after the root and after each accepted node.
        return _Verdict(rows, None, [said_host[0], *(said_host[row + 1] for row in rows)])

    def _processed(self, logits: Tensor, tree: DraftTree) -> Tensor:
        """Logits [1, N+1, V] after what the generation config asks for."""
        if not self.processors:
            return logits
        return process_paths(self.processors, logits, self.text_ids, tree)

    def _coupling(self, depth: int) -> Tensor | None:
        """What picks the tokens that a round of this depth may emit, in coupled sampling."""
        if not self.sampling.is_coupled:
            return None
        start = len(self.prompt_ids) + self.num_emitted
        vocab_size = self.target.vocab_size
        return gumbel_noise(self.sampling.seed, start, depth + 1, vocab_size, self.target.device)

    def _said(self, logits: Tensor, tree: DraftTree, noise: Tensor | None) -> Tensor:
        """The target's token after the root and after every node: [1, N+1, V] → [1, N+1]."""
        if noise is None:
            return logits.argmax(-1)
        depths = F.pad(tree.depths[0], (1, 0))
        return (self.sampling.log_probs(logits) + noise[depths]).argmax(-1)

    def _accept_sampled(self, drafted: _Draft, logits: Tensor) -> _Verdict:
        probs = self.sampling.log_probs(logits)[0].exp()
        found = verify.rejection(drafted.tree, probs, drafted.laws, self._uniform)
        bonus = self._sample(found.bonus_probs)
        tokens = drafted.tree.token_ids[0, found.rows].tolist()
        return _Verdict(found.rows, found.tested, [*tokens, int(bonus)])

    def _uniform(self) -> float:
        return float(torch.rand((), dtype=torch.float64, generator=self.uniforms))

    def _sample(self, probs: Tensor) -> Tensor:
        """One token of [V] probabilities, by inversion, so that the seed alone decides."""
        total = probs.double().cumsum(0)
        threshold = self._uniform() * total[-1:]
        return torch.searchsorted(total, threshold, right=True).clamp(max=probs.shape[0] - 1)

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

    def _observe(
        self, drafted: _Draft, verdict: _Verdict, num_emitted: int, clock: RoundClock
    ) -> None:
        if not self.policy.learns:
            return
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
        seconds = clock.peek()
        self.policy.observe(
            Outcome(
                tree=tree,
                tested=tested,
                accepted=accepted,
                num_accepted=torch.tensor([len(rows)]),
                num_emitted=torch.tensor([num_emitted]),
                depth=torch.tensor([drafted.depth]),
                draft_seconds=torch.tensor([seconds["draft"]], dtype=torch.float64),
                verify_seconds=torch.tensor([seconds["verify"]], dtype=torch.float64),
            )
        )
        clock.ends("policy")


def _rows(values: Tensor, rows: list[int]) -> Tensor:
    """Those rows of [1, R, D], ascending from 0; a view where they follow each other."""
    if rows[-1] == len(rows) - 1:
        return values[:, : len(rows)]
    return values.index_select(1, torch.tensor(rows, device=values.device))
