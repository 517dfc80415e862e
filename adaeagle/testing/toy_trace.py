"""Recorded texts made to order: how much of each position's draft the text goes along with.

Shapes: Q positions of a text, A prompt tokens, L = Q + 1 new tokens, K tokens of a chain,
R recorded ranks, D feature size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaeagle.data.splits import Split
from adaeagle.trace.envelope import Envelope
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.manifest import Manifest, Shard
from adaeagle.trace.text import RecordedText

VOCAB_SIZE = 50
NUM_PROMPT = 3


def toy_trace(
    accepted_lengths: Sequence[Sequence[int]],
    *,
    k_max: int = 8,
    features: Sequence[Tensor] | None = None,
    log_probs: Sequence[Tensor] | None = None,
    entropies: Sequence[Tensor] | None = None,
    beams: tuple[int, int] | None = None,
    second_rank: int | None = None,
    room: int = 0,
    num_ranks: int = 10,
    seed: int = 0,
) -> list[RecordedText]:
    """One text for each list of lengths; its prompt's id is its number.

    Every position holds a greedy chain of `k_max` tokens, of which the text has the first so many.

    Args:
        accepted_lengths: for each text, for each of its positions; the text's end cuts them off.
        k_max: tokens of each chain.
        features: of each text, [Q, D]: what the target made of the last verified token; None: zeros
            of size 4.
        log_probs: of each text, [Q, K] of the chain's tokens; None: one half each.
        entropies: of each text, [Q, K] of the distributions the chain's tokens come from; None:
            those of distributions whose other tokens are all as likely.
        beams: (width, depth): besides, all drafts of the `width` best children of every node, to
            that depth.
        second_rank: where the text leaves the chain it goes on in this child, 1 the second-best,
            and with the best children from there on; None: in none. For `beams`.
        room: tokens that each text could still have emitted at its end; more than 0 means that it
            ended at a stop token.
        num_ranks: R.
        seed: of the tokens.
    """
    texts = []
    for number, lengths in enumerate(accepted_lengths):
        num_positions = len(lengths)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        token_ids = torch.randint(VOCAB_SIZE, (num_positions + 1,), generator=generator)
        own_features = torch.zeros(num_positions, 4) if features is None else features[number]
        distribution = torch.full((num_positions, k_max), 0.5).log()
        distribution = distribution if log_probs is None else log_probs[number].float()
        drafts = _Drafts(
            token_ids,
            torch.tensor(lengths),
            distribution,
            None if entropies is None else entropies[number].float(),
            second_rank,
            num_ranks,
        )
        top = token_ids.unsqueeze(1)
        texts.append(
            RecordedText(
                prompt_id=str(number),
                turn=0,
                category="toy",
                source="toy",
                prompt_ids=torch.randint(VOCAB_SIZE, (NUM_PROMPT,), generator=generator),
                token_ids=token_ids,
                limit=num_positions + 1 + room,
                features=_all_features(own_features),
                draft_features=None,
                top_token_ids=top,
                top_log_probs=torch.zeros(top.shape),
                envelope=drafts.envelope(k_max, beams),
            )
        )
    return texts


def toy_folder(
    path: Path,
    texts: Sequence[RecordedText],
    splits: Sequence[Split] | None = None,
    **changed: Any,
) -> TraceFolder:
    """Stores texts, one a prompt, as a trace of their own.

    Args:
        path: the folder.
        texts: of `toy_trace` or others.
        splits: of each text; None: all for tuning.
        **changed: fields of the manifest.
    """
    ids = [text.prompt_id for text in texts]
    split_of = splits or ["tune"] * len(texts)
    fields: dict[str, Any] = {
        "target": "toy",
        "target_weights": "toy target",
        "drafter": "toy head",
        "drafter_kind": "eagle",
        "drafter_weights": "toy head",
        "dtype": str(texts[0].features.dtype).removeprefix("torch."),
        "vocab_size": VOCAB_SIZE,
        "device": "cpu",
        "prompts": "toy",
        "prompts_sha256": "",
        "max_new_tokens": max(text.limit for text in texts),
        "envelope": [],
        "num_top": 1,
        "generation": {},
        "versions": {},
        "prompt_ids": ids,
        "shards": [Shard(split, [name]) for name, split in zip(ids, split_of, strict=True)],
        "recorded_on": {},
    }
    folder = TraceFolder.create(path, Manifest(**(fields | changed)))
    for number, text in enumerate(texts):
        folder.add(number, [text])
    return folder


def _all_features(own: Tensor) -> Tensor:
    """[A + Q, D]: those of the prompt's other tokens, and of the text's last, are zeros."""
    zeros = own.new_zeros(1, own.shape[1])
    return torch.cat((zeros.expand(NUM_PROMPT - 1, -1), own, zeros))


class _Drafts:
    """The drafts of one text.

    Args:
        token_ids: [L] of the text.
        lengths: [Q] accepted tokens of each chain.
        log_probs: [Q, K] of best children, by depth; the last column holds for all deeper ones.
        entropies: likewise, of their distributions; None: what follows from `log_probs`.
        second_rank: where the text goes on, where it leaves the chain.
        num_ranks: R.
    """

    def __init__(
        self,
        token_ids: Tensor,
        lengths: Tensor,
        log_probs: Tensor,
        entropies: Tensor | None,
        second_rank: int | None,
        num_ranks: int,
    ) -> None:
        if second_rank is not None and not 1 <= second_rank < num_ranks:
            raise ValueError(f"second_rank must be in 1..{num_ranks - 1}, got {second_rank}")
        self.token_ids = token_ids
        self.lengths = lengths
        self.log_probs = log_probs
        self.second_rank = second_rank
        self.num_ranks = num_ranks
        rest = (1 - log_probs.exp()).clamp(min=1e-9)
        others = rest / (VOCAB_SIZE - 1)
        self.other_log_probs = others.log()
        self.entropies = entropies
        if entropies is None:
            self.entropies = -(log_probs.exp() * log_probs) - rest * others.log()

    def envelope(self, k_max: int, beams: tuple[int, int] | None) -> Envelope:
        num_positions = len(self.lengths)
        envelope = Envelope(num_positions, self.num_ranks)
        positions = torch.arange(num_positions)
        parents, ranks = torch.full_like(positions, -1), torch.zeros_like(positions)
        # Whether each node lies on the greedy chain, and on the text's own path.
        is_greedy, is_on_text = torch.ones(2, num_positions, dtype=torch.bool)
        for depth in range(1, k_max + 1):
            children, rank_on_text = self._children(positions, is_greedy, is_on_text, depth)
            column = min(depth, self.log_probs.shape[1]) - 1
            best = self.log_probs[positions, column].unsqueeze(1)
            others = self.other_log_probs[positions, column].unsqueeze(1)
            distribution = torch.cat((best, others.expand(-1, self.num_ranks - 1)), dim=1)
            assert self.entropies is not None
            new = envelope.add(
                positions, parents, ranks, children, distribution, self.entropies[positions, column]
            )
            width = beams[0] if beams is not None and depth < beams[1] else 1
            keep = is_greedy if width == 1 else torch.ones_like(is_greedy)
            parents = new[keep].repeat_interleave(width)
            ranks = torch.arange(width).repeat(int(keep.sum()))
            positions = positions[keep].repeat_interleave(width)
            is_greedy = is_greedy[keep].repeat_interleave(width) & (ranks == 0)
            is_on_text = is_on_text[keep].repeat_interleave(width)
            is_on_text = is_on_text & (ranks == rank_on_text[keep].repeat_interleave(width))
        return envelope

    def _children(
        self, positions: Tensor, is_greedy: Tensor, is_on_text: Tensor, depth: int
    ) -> tuple[Tensor, Tensor]:
        """What nodes [M] propose at `depth`: tokens [M, R], and the rank the text says, or -1."""
        places = (positions + depth).clamp(max=len(self.token_ids) - 1)
        expected = self.token_ids[places].unsqueeze(1)
        offsets = torch.arange(1, self.num_ranks + 1)
        children = (expected + offsets) % VOCAB_SIZE  # none of them is what the text says
        leaves = is_greedy & (depth > self.lengths[positions])
        rank = torch.where(leaves, -1 if self.second_rank is None else self.second_rank, 0)
        rank = rank.masked_fill(~is_on_text, -1)
        has = (rank >= 0).nonzero().flatten()
        children[has, rank[has]] = expected[has, 0]
        return children, rank
