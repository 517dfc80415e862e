"""Training that unrolls drafts: chains from every pair of an answer, each step on the one before.

    step i of root t   reads t_{t+1+i} and the state of step i-1, at rope position t + i
                       predicts what comes after t_{t+1+i}
    its attention      step 0's keys of pairs 0..t, then the root's own keys of steps 1..i

which is what a chain drafted from pair t reads. Attention is written out and takes memory by roots
times length of a text.
Shapes: B texts, T tokens, R roots (pairs to draft from) of the text with most, M roots of all
texts, H hidden size, A heads, D head dimension.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaeagle.drafters.eagle import EagleDrafter
from adaeagle.drafters.eagle3_head import Eagle3Head
from adaeagle.drafters.eagle_head import EagleHead
from adaeagle.drafters.head_layers import Attention, Rotation
from adaeagle.models.kv_cache import additive
from adaeagle.models.target import Target
from adaeagle.ranges import above, at_least
from predictors.draft_models.data import EagleBatch
from predictors.draft_models.training import HeadTraining
from predictors.training.optimised import Optimisation


@dataclass(frozen=True, slots=True)
class Roots:
    """The pairs to draft from: those that read an answer's token."""

    texts: Tensor  # [M] int64, whose pairs they are
    pairs: Tensor  # [M] int64, ascending within a text
    padded: Tensor  # [B, R] int64, the pairs of each text; what is over is any other pair
    is_root: Tensor  # [B, R] bool, what is no padding: M in all, in the order of `pairs`

    @classmethod
    def of(cls, is_answer: Tensor) -> "Roots":
        """The roots of texts, is_answer [B, T] bool."""
        reads_answer = is_answer[:, 1:]
        num_roots = int(reads_answer.sum(1).max())  # one host sync a batch
        order = reads_answer.int().argsort(dim=1, descending=True, stable=True)[:, :num_roots]
        is_root = reads_answer.gather(1, order)
        texts = is_root.nonzero()[:, 0]
        return cls(texts, order[is_root], order, is_root)

    def pad(self, values: Tensor) -> Tensor:
        """[1, A, M, D] → [B, A, R, D], zeros where there is no root."""
        _, num_heads, _, dim = values.shape
        padded = values.new_zeros(*self.is_root.shape, num_heads, dim)
        padded[self.is_root] = values[0].transpose(0, 1)
        return padded.transpose(1, 2)

    def unpad(self, values: Tensor) -> Tensor:
        """[B, A, R, D] → [1, A, M, D]."""
        return values.transpose(1, 2)[self.is_root].transpose(0, 1).unsqueeze(0)


class UnrolledAttention:
    """One attention layer of chains that are unrolled from roots.

    Args:
        attention: the head's.
        roots: where chains begin.
        mask: additive [B, 1, R, T-1], which pairs each root sees.
    """

    def __init__(self, attention: Attention, roots: Roots, mask: Tensor) -> None:
        self._attention = attention
        self._roots = roots
        self._mask = mask
        self._group = attention.q_proj.out_features // attention.k_proj.out_features
        self._pairs: tuple[Tensor, Tensor]
        self._own: list[tuple[Tensor, Tensor]] = []

    def read(self, inputs: Tensor, rotation: Rotation) -> None:
        """Takes the keys and values of every pair, from inputs [B, T-1, D]."""
        _, key, value = self._attention.project(inputs, rotation)
        self._pairs = self._repeated(key, value)

    def __call__(self, inputs: Tensor, rotation: Rotation, step: int) -> Tensor:
        """One step of all roots: [1, M, D] → [1, M, H]."""
        roots = self._roots
        query, key, value = self._attention.project(inputs, rotation)
        if step > 0:
            self._own.append(self._repeated(roots.pad(key), roots.pad(value)))
        mixed = unrolled_attention(roots.pad(query), self._pairs, self._own, self._mask)
        return self._attention.merge(roots.unpad(mixed))

    def _repeated(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return (
            key.repeat_interleave(self._group, dim=1),
            value.repeat_interleave(self._group, dim=1),
        )


def unrolled_attention(
    query: Tensor, pairs: tuple[Tensor, Tensor], own: list[tuple[Tensor, Tensor]], mask: Tensor
) -> Tensor:
    """Attention of one step, of every root over the pairs up to it and over its own steps.

    Args:
        query: [B, A, R, D].
        pairs: keys and values of step 0, each [B, A, T-1, D].
        own: keys and values of the later steps, each [B, A, R, D].
        mask: additive [B, 1, R, T-1], which pairs each root sees.
    """
    keys, values = pairs
    query = query / query.shape[3] ** 0.5
    own_scores = [(query * key).sum(3, keepdim=True) for key, _ in own]
    scores = torch.cat((query @ keys.transpose(2, 3) + mask, *own_scores), dim=3)
    shares = scores.float().softmax(3).to(query.dtype)
    mixed: Tensor = shares[..., : keys.shape[2]] @ values
    for place, (_, value) in enumerate(own, start=keys.shape[2]):
        mixed = mixed + shares[..., place : place + 1] * value
    return mixed


class UnrolledTraining(HeadTraining):
    """Trains an EAGLE head on the steps of drafts.

    Args:
        head: the network that drafting uses, its draft vocabulary set where it has one.
        target: gives embedding, distributions and, where the batch has none, features.
        optimisation: how the head is stepped.
        unroll: steps of a draft that are trained.
        decay: each step's loss weighs this much of the one before.
        rollout: drafted tokens of validation's greedy chains.
        seed: of noise.
    """

    head: EagleHead | Eagle3Head

    def __init__(
        self,
        head: EagleHead | Eagle3Head,
        target: Target,
        optimisation: Optimisation,
        *,
        unroll: int,
        decay: float,
        rollout: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(head, target, optimisation, rollout=rollout, seed=seed)
        at_least(1, unroll=unroll)
        above(0, decay=decay)
        self.unroll = unroll
        self.decay = decay

    @property
    @abstractmethod
    def layers(self) -> list[Any]:
        """The head's decoder layers."""

    @abstractmethod
    def first_states(self, features: Tensor) -> Tensor:
        """What a draft begins with, of what `features` gives: [B, T, H]."""

    @abstractmethod
    def enter(self, embeddings: Tensor, states: Tensor) -> Tensor:
        """What the first layer adds to, [..., H]."""

    @abstractmethod
    def attention_inputs(self, layer: Any, embeddings: Tensor, x: Tensor) -> Tensor:
        """What a layer's attention reads."""

    @abstractmethod
    def draft_logits(self, states: Tensor) -> Tensor:
        """Over the draft vocabulary, [..., W]."""

    def states(
        self, token_ids: Tensor, first: Tensor, roots: Roots, num_steps: int
    ) -> Iterator[Tensor]:
        """Each step's states [M, H]; beyond a text's end they mean nothing.

        Args:
            token_ids: [B, T].
            first: [B, T, H], of `first_states`.
            roots: of the texts.
            num_steps: of each chain.
        """
        rotary, layers = self.head.rotary, self.layers
        num_pairs = token_ids.shape[1] - 1
        embeddings = self.target.embed(token_ids[:, 1:]).to(first.dtype)
        positions = torch.arange(num_pairs, device=token_ids.device).unsqueeze(0)
        sees = positions <= roots.padded.unsqueeze(2)  # [B, R, T-1]
        mask = additive(sees.unsqueeze(1), first.dtype)
        attentions = [UnrolledAttention(layer.self_attn, roots, mask) for layer in layers]
        x = self.enter(embeddings, first[:, :-1])
        rotation = rotary(positions, x.dtype)
        for layer, attention in zip(layers, attentions, strict=True):
            # Every pair has keys; the last layer's queries, and all that follows, are the roots'.
            attention.read(self.attention_inputs(layer, embeddings, x), rotation)
            if layer is not layers[-1]:
                x = layer(x, rotation, None, None)
        rows = first[roots.texts, roots.pairs].unsqueeze(0)
        for step in range(num_steps):
            places = (roots.pairs + step).clamp(max=num_pairs - 1)
            taken = embeddings[roots.texts, places].unsqueeze(0)
            rows = self.enter(taken, rows)
            rotation = rotary((roots.pairs + step).unsqueeze(0), rows.dtype)
            for layer, attention in zip(layers, attentions, strict=True):
                inputs = self.attention_inputs(layer, taken, rows)
                rows = layer.finish(rows, attention(inputs, rotation, step))
            yield rows[0]

    def steps(self, batch: EagleBatch, first: Tensor) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Of each step its weight, the states that count, and which answer token each has read.

        A step counts where the token it reads is an answer's: so an answer's first token is learnt,
        and nothing beyond a text's end. Answer tokens are numbered through.
        """
        roots = Roots.of(batch.is_answer)
        number_of = (batch.is_answer.flatten().cumsum(0) - 1).view_as(batch.is_answer)  # [B, T]
        num_tokens = batch.token_ids.shape[1]
        for step, states in enumerate(self.states(batch.token_ids, first, roots, self.unroll)):
            places = roots.pairs + 1 + step  # of the token read
            read = roots.texts, places.clamp(max=num_tokens - 1)
            counts = (places < num_tokens) & batch.is_answer[read]
            yield self.decay**step, states[counts], number_of[read][counts]

    def likeliest(self, logits: Tensor) -> Tensor:
        """The target's id of the token with the highest draft logit: [..., W] → [...]."""
        chosen = logits.argmax(-1)
        vocab = self.head.vocab_map
        return chosen if vocab is None else vocab[chosen]

    @torch.no_grad()
    def accepted_lengths(self, batch: EagleBatch, features: Tensor) -> Tensor:
        """See `HeadTraining.accepted_lengths`; 0 where no answer's token is read.

        The text is the target's own, so a drafted token is accepted where it equals the text's, and
        up to there the text's tokens are the chain's own.
        """
        roots, token_ids = Roots.of(batch.is_answer), batch.token_ids
        found = torch.zeros_like(token_ids[:, 1:])
        is_alive = torch.ones_like(roots.pairs, dtype=torch.bool)
        chains = self.states(token_ids, self.first_states(features), roots, self.rollout)
        for step, states in enumerate(chains):
            places = roots.pairs + 2 + step
            following = token_ids[roots.texts, places.clamp(max=token_ids.shape[1] - 1)]
            is_alive &= (self.likeliest(self.draft_logits(states)) == following) & (
                places < token_ids.shape[1]
            )
            found[roots.texts, roots.pairs] += is_alive
        return found

    def drafter(self) -> EagleDrafter:
        return EagleDrafter(self.head.cpu(), self.target)
