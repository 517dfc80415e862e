"""Rounds on a toy pair, side by side: the real drafting loop and greedy verification, no models.

Draft and target know one token of context and its place in the text, modulo `PHASES`: what follows
is a row of a random table, and every text has tables of its own, so a row's rounds do not depend on
what runs beside it.
Shapes: P texts side by side, H phases, A newly decided tokens, W nodes, N drafted nodes,
V vocabulary, D feature size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adaeagle.decoding import verification
from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.proposals import LiveProposer
from adaeagle.decoding.round import draft_round
from adaeagle.decoding.sampling import Sampling
from adaeagle.drafters.base import DraftSession, Proposal
from adaeagle.policy import Context, Outcome, Policy
from adaeagle.tree import ROOT, DraftTree, ancestors

PHASES = 7

Agreement = Literal["all", "some", "none"]
"""How much of the best draft the target accepts."""


@dataclass(frozen=True, slots=True)
class ToyRound:
    """What one round did to one text, in terms that padding does not touch."""

    depth: int  # draft forwards
    verified: frozenset[tuple[int, ...]]  # the path of every verified node, in tokens
    num_accepted: int
    num_emitted: int


class ToySession(DraftSession):
    """A draft session that looks up what follows a token.

    Args:
        draft_logits: [P, H, V, V].
        places: [P] int64, of the root in each text.
    """

    def __init__(self, draft_logits: Tensor, places: Tensor) -> None:
        self._draft_logits = draft_logits
        self._places = places
        self._rows = torch.arange(len(places)).unsqueeze(1)

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        return self._look_up(token_ids[:, -1:])

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        self._places = self._places + 1
        return self._look_up(token_ids)

    def _look_up(self, token_ids: Tensor) -> Proposal:
        places = self._places.unsqueeze(1) % PHASES
        return Proposal(self._draft_logits[self._rows, places, token_ids])


class ToyTexts:
    """Texts of a toy pair.

    Args:
        seeds: one text each.
        remaining: tokens each may still emit.
        agreement: of draft and target.
        vocab_size: tokens of both.
        feature_size: of the target's features.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        remaining: Sequence[int],
        agreement: Agreement = "some",
        vocab_size: int = 32,
        feature_size: int = 16,
    ) -> None:
        texts = [_tables(seed, agreement, vocab_size, feature_size) for seed in seeds]
        tables = [torch.stack(of_all) for of_all in zip(*texts, strict=True)]
        self._draft_logits, self._choices, self._features = tables
        self._rows = torch.arange(len(seeds))
        self.root = torch.tensor([seed % vocab_size for seed in seeds])
        self.last = (self.root + 1) % vocab_size
        self.num_tokens = torch.full_like(self.root, 2)
        self.remaining = torch.tensor(remaining)
        pairs = torch.stack((self.last, self.root), dim=1)
        self._text_ids: list[list[int]] = pairs.tolist()

    def play(self, policy: Policy, num_rounds: int) -> list[list[ToyRound]]:
        """Begins the texts and runs some rounds of each; a text at its end drafts nothing.

        Returns:
            for each text, its rounds.
        """
        policy.reset()
        rounds = [self.round(policy, number) for number in range(num_rounds)]
        return [list(of_text) for of_text in zip(*rounds, strict=True)]

    def context(self, number: int) -> Context:
        """What a policy may know before round `number`."""
        return Context(
            round=number,
            num_tokens=self.num_tokens,
            remaining=self.remaining,
            token_ids=self.root,
            last_token_ids=self.last,
            features=self._features[self._rows, self.last],
            recent=self._recent,
            target_log_probs=self._target_log_probs,
        )

    def _target_log_probs(self, count: int) -> Tensor:
        # Made up of the draft's: what a policy may read has to be there, whatever it says.
        logits = self._draft_logits[self._rows, self.last]
        return logits.float().log_softmax(-1).topk(min(count, logits.shape[-1])).values

    def _recent(self, count: int) -> list[list[int]]:
        return [text[-count:] for text in self._text_ids]

    def round(self, policy: Policy, number: int) -> list[ToyRound]:
        """One round of every text."""
        proposer = LiveProposer(
            ToySession(self._draft_logits, self.num_tokens),
            lambda: (self.root.unsqueeze(1), None, [1] * len(self._rows)),
            policy,
            Sampling(),
            [],
        )
        clock = RoundClock(torch.device("cpu"))
        drafted = draft_round(policy, proposer, self.context(number), clock)
        tree = drafted.tree
        depth = (tree.depths * tree.valid).amax(1) if len(tree) else torch.zeros_like(self.root)
        return self._verify(policy, drafted.verified(), depth)

    def _verify(self, policy: Policy, tree: DraftTree, depth: Tensor) -> list[ToyRound]:
        token_ids = torch.cat((self.root.unsqueeze(1), tree.token_ids), dim=1)
        depths = torch.cat((torch.zeros_like(self.root).unsqueeze(1), tree.depths), dim=1)
        phases = (self.num_tokens.unsqueeze(1) + depths) % PHASES
        choices = self._choices[self._rows.unsqueeze(1), phases, token_ids]  # [P, N+1]
        accepted = verification.greedy(tree, ancestors(tree), choices)
        reached = torch.cat((accepted.new_ones(len(depth), 1), accepted), dim=1)  # [P, N+1]
        num_accepted = accepted.sum(1)
        if policy.learns:
            policy.observe(
                Outcome.of(
                    tree,
                    accepted,
                    self.remaining,
                    depth=depth,
                    draft_seconds=0.001 * depth.double(),
                    verify_seconds=torch.full_like(depth, 0.01, dtype=torch.float64),
                )
            )
        # The deepest accepted row is the last of the path: parents come before children.
        places = torch.arange(reached.shape[1]) * reached
        last = places.amax(1, keepdim=True)
        self.last = token_ids.gather(1, last).squeeze(1)
        self.root = choices.gather(1, last).squeeze(1)
        for text, path, own, root in zip(
            self._text_ids, token_ids, reached, self.root.tolist(), strict=True
        ):
            text += [*path[own][1:].tolist(), root]
        self.num_tokens = self.num_tokens + num_accepted + 1
        self.remaining = (self.remaining - num_accepted - 1).clamp(min=1)
        return [
            ToyRound(int(d), _paths(tree, row), int(a), int(a) + 1)
            for row, (d, a) in enumerate(zip(depth, num_accepted, strict=True))
        ]


def _tables(
    seed: int, agreement: Agreement, vocab_size: int, feature_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What follows each token: draft logits [H, V, V], the target's token [H, V], features [V, D].

    Some rows are sharp and some are flat, so that rules on the draft's distribution have both to
    see.
    """
    generator = torch.Generator().manual_seed(seed)
    sharpness = 1 + 5 * torch.rand(PHASES, vocab_size, 1, generator=generator)
    logits = sharpness * torch.randn(PHASES, vocab_size, vocab_size, generator=generator)
    ranked = logits.argsort(dim=-1, descending=True)
    ranks = {
        "all": torch.zeros(PHASES, vocab_size),
        "some": torch.rand(PHASES, vocab_size, generator=generator).square() * 3,
        "none": torch.full((PHASES, vocab_size), vocab_size - 1.0),
    }[agreement]
    target_choices = ranked.gather(2, ranks.long().unsqueeze(2)).squeeze(2)
    return logits, target_choices, torch.randn(vocab_size, feature_size, generator=generator)


def _paths(tree: DraftTree, row: int) -> frozenset[tuple[int, ...]]:
    paths: dict[int, tuple[int, ...]] = {ROOT: ()}
    columns = zip(
        tree.parents[row].tolist(),
        tree.token_ids[row].tolist(),
        tree.valid[row].tolist(),
        strict=True,
    )
    for node, (parent, token, valid) in enumerate(columns):
        if valid:
            paths[node] = (*paths[parent], token)
    return frozenset(paths.values()) - {()}
