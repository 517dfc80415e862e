"""What sessions of draft networks share: committed texts in a cache, and nodes behind them.

A live session drafts after the whole of each text, which grows; a prefix session drafts after many
prefixes of one whole text. Both are this: nodes that each see a prefix and their own path.

Shapes: P texts side by side, A tokens, W nodes, E nodes run so far, S slots of the texts,
H hidden size, V draft vocabulary.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.drafters.base import DraftSession, Proposal
from adaeagle.models.kv_cache import KVCache, additive, attention_mask, causal_mask


class NodePaths:
    """Which nodes lie on each node's path, of nodes run one level after another."""

    def __init__(self) -> None:
        self.depths: Tensor | None = None  # [P, E] int64, 1 for the root's children
        self._paths: Tensor | None = None  # [P, E, E] bool

    def __len__(self) -> int:
        return 0 if self.depths is None else self.depths.shape[1]

    def extend(self, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Adds nodes.

        Args:
            parents: [P, W] int64 nodes run before, in the order they were run; -1 for the root.

        Returns:
            depths [P, W] int64, and which nodes each sees, [P, W, E + W] bool.
        """
        num_texts, num_new = parents.shape
        own = torch.eye(num_new, dtype=torch.bool, device=parents.device)
        rows = own.expand(num_texts, -1, -1)
        depths = torch.ones_like(parents)
        if self.depths is None or self._paths is None:
            self.depths, self._paths = depths, rows
            return depths, rows
        num_before = len(self)
        # A row of nothing in front, for the root.
        depths = F.pad(self.depths, (1, 0)).gather(1, parents + 1) + 1
        index = (parents + 1).unsqueeze(2).expand(-1, -1, num_before)
        above = F.pad(self._paths, (0, 0, 1, 0)).gather(1, index)
        rows = torch.cat((above, rows), dim=2)
        self.depths = torch.cat((self.depths, depths), dim=1)
        self._paths = torch.cat((F.pad(self._paths, (0, num_new)), rows), dim=1)
        return depths, rows


class NetworkSession(DraftSession):
    """A draft network on texts.

    Args:
        cache: of the network, empty, of P texts.
        dtype: of masks.
        num_unseen: tokens in front of a text that take no slot: 1 for EAGLE's pairs.
    """

    def __init__(self, cache: KVCache, dtype: torch.dtype, num_unseen: int) -> None:
        self._cache = cache
        self._dtype = dtype
        self._num_unseen = num_unseen
        self._nodes = NodePaths()
        self._num_text = 0  # of a text that was opened whole: how many outputs are its own
        self._outputs = torch.empty(1, 0, 0)  # [P, E, H]: of the root or the whole text, then nodes

    @abstractmethod
    def run(
        self,
        token_ids: Tensor,
        states: Tensor | None,
        positions: Tensor,
        mask: Tensor | None,
        cache: KVCache,
    ) -> Tensor:
        """Runs tokens, appended to a cache: [P, A] → outputs [P, A, H].

        Args:
            token_ids: [P, A] int64.
            states: [P, A, H] what the network reads beside each token; None: nothing.
            positions: [P, A] int64.
            mask: additive [P, 1, A, slots]; None: causal, everything before.
            cache: of all texts, or of one that begins; it may have to `reserve` room.
        """

    @abstractmethod
    def logits(self, outputs: Tensor) -> Tensor:
        """[..., H] → [..., V]."""

    @abstractmethod
    def states_after(self, outputs: Tensor) -> Tensor | None:
        """What a node reads of its parent's outputs [P, W, H]; None: nothing."""

    @property
    def num_run(self) -> int:
        """Nodes run since the last `reset`."""
        return len(self._nodes)

    def reset(self) -> None:
        """Drops the nodes."""
        self._cache.discard()
        self._nodes = NodePaths()
        self._outputs = self._outputs[:, : self._num_text]

    def states_before(self, features: Tensor | None) -> Tensor | None:
        """What a token reads of the target's features before it, [P, A, D]; None: nothing."""
        return None

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        self.reset()
        begun: dict[int, Tensor] = {}
        for row, (count, length) in enumerate(zip(counts, self._cache.lengths, strict=True)):
            if count > 0 and length == 0:
                own = None if features is None else features[row : row + 1, :count]
                states = self.states_before(own)
                begun[row] = self._begin_text(row, token_ids[row : row + 1, :count], states)
        left = [0 if row in begun else count for row, count in enumerate(counts)]
        roots = self._append(token_ids, features, left) if any(left) else None
        if roots is None:
            first = next(iter(begun.values()))
            roots = first.new_zeros(len(counts), 1, first.shape[2])
        for row, outputs in begun.items():
            roots[row] = outputs[0, -1:]
        self._outputs = roots
        return Proposal(self.logits(roots))

    def _begin_text(self, row: int, token_ids: Tensor, states: Tensor | None) -> Tensor:
        """Runs the first tokens of a text, alone: no other one is padded to its length.

        Args:
            row: of the text.
            token_ids: [1, A] int64.
            states: [1, A, H], as `run` takes them.

        Returns:
            outputs [1, A, H].
        """
        num_new = token_ids.shape[1]
        self._cache.reserve(max(0, num_new - self._cache.length))
        positions = torch.arange(num_new, device=token_ids.device).unsqueeze(0)
        outputs = self.run(token_ids, states, positions, None, self._cache.only(row))
        self._cache.begin_text(row, num_new)
        return outputs

    def _append(self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]) -> Tensor:
        """Adds tokens to texts that have begun, as `catch_up` takes them: the last outputs of each
        text, [P, 1, H]."""
        num_new, device = max(counts), token_ids.device
        token_ids = token_ids[:, :num_new]
        states = self.states_before(None if features is None else features[:, :num_new])
        lengths, start = self._cache.lengths, max(self._cache.lengths)
        mask = None
        if num_new > 1 or min(lengths) < start:
            own = causal_mask(num_new, num_new, device).expand(len(lengths), -1, -1)
            mask = attention_mask(lengths, own, start, self._dtype)
        first = torch.tensor(lengths, device=device).unsqueeze(1)
        positions = first + torch.arange(num_new, device=device)
        outputs = self.run(token_ids, states, positions, mask, self._cache)
        self._cache.commit([range(count) for count in counts])
        if min(counts) == num_new:
            return outputs[:, -1:]
        last = torch.tensor([max(count, 1) - 1 for count in counts], device=device)
        return outputs.gather(1, last.view(-1, 1, 1).expand(-1, 1, outputs.shape[2]))

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        lengths = torch.tensor(self._cache.lengths, device=token_ids.device)
        prefixes = lengths.unsqueeze(1).expand_as(token_ids)
        index = origins.unsqueeze(2).expand(-1, -1, self._outputs.shape[2])
        outputs = self._run_nodes(token_ids, origins - 1, prefixes, self._outputs.gather(1, index))
        self._outputs = torch.cat((self._outputs, outputs), dim=1)
        return Proposal(self.logits(outputs))

    def replace(self, row: int, prompt_ids: Sequence[int]) -> None:
        self.reset()
        self._cache.begin_text(row, 0)

    def keep(self, rows: Sequence[int]) -> None:
        self.reset()
        self._cache.keep(rows)

    def open_text(self, token_ids: Tensor, states: Tensor | None) -> None:
        """Takes in a whole text, [A], to draft after its prefixes."""
        states = None if states is None else states.unsqueeze(0)
        self._outputs = self._begin_text(0, token_ids.unsqueeze(0), states)
        self._num_text = len(token_ids)

    def roots(self, lengths: Tensor) -> Proposal:
        """See `PrefixSession`."""
        places = lengths - 1 - self._num_unseen
        return Proposal(self.logits(self._outputs[:, places.to(self._outputs.device)]))

    def extend_prefixes(self, token_ids: Tensor, parents: Tensor, lengths: Tensor) -> Proposal:
        """See `PrefixSession`."""
        device = self._outputs.device
        token_ids, parents, lengths = (
            values.to(device).unsqueeze(0) for values in (token_ids, parents, lengths)
        )
        prefixes = lengths - self._num_unseen
        places = torch.where(parents < 0, prefixes - 1, parents + self._num_text)
        outputs = self._run_nodes(token_ids, parents, prefixes, self._outputs[:, places[0]])
        self._outputs = torch.cat((self._outputs, outputs), dim=1)
        return Proposal(self.logits(outputs))

    def _run_nodes(
        self, token_ids: Tensor, parents: Tensor, prefixes: Tensor, above: Tensor
    ) -> Tensor:
        """Runs nodes: [P, W] → outputs [P, W, H].

        Args:
            token_ids: [P, W] int64.
            parents: [P, W] int64, -1 for the root.
            prefixes: [P, W] int64, slots of its text that each node sees.
            above: [P, W, H] outputs of the parents.
        """
        depths, own = self._nodes.extend(parents)
        num_before = max(self._cache.lengths)
        text = torch.arange(num_before, device=own.device) < prefixes.unsqueeze(2)  # [P, W, S]
        mask = additive(torch.cat((text, own), dim=2), self._dtype).unsqueeze(1)
        positions = prefixes + depths - 1
        return self.run(token_ids, self.states_after(above), positions, mask, self._cache)
