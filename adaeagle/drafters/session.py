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
from adaeagle.models.kv_cache import KVCache, additive, attention_mask


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
        self, token_ids: Tensor, states: Tensor | None, positions: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Runs tokens, appended to the cache: [P, A] → outputs [P, A, H].

        Args:
            token_ids: [P, A] int64.
            states: [P, A, H] what the network reads beside each token; None: nothing.
            positions: [P, A] int64.
            mask: additive [P, 1, A, slots]; None: causal, everything before.
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

    def append(self, token_ids: Tensor, states: Tensor | None, counts: Sequence[int]) -> Tensor:
        """Adds tokens to the texts: outputs [P, A, H].

        Args:
            token_ids: [P, A] int64.
            states: [P, A, H], as `run` takes them.
            counts: of each text, how many of A are its own.
        """
        self.reset()
        num_new, device = token_ids.shape[1], token_ids.device
        lengths, start = self._cache.lengths, max(self._cache.lengths)
        mask = None
        if start > 0 and (num_new > 1 or min(lengths) < start):
            causal = torch.ones(num_new, num_new, dtype=torch.bool, device=device).tril_()
            own = causal.expand(len(lengths), -1, -1)
            mask = attention_mask(lengths, own, start, self._dtype)
        first = torch.tensor(lengths, device=device).unsqueeze(1)
        outputs = self.run(token_ids, states, first + torch.arange(num_new, device=device), mask)
        self._cache.commit([range(count) for count in counts])
        return outputs

    def catch_up_on(
        self, token_ids: Tensor, states: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        """`append`, and what follows the last token of each text."""
        outputs = self.append(token_ids, states, counts)
        if min(counts) < outputs.shape[1]:
            last = torch.tensor([max(count, 1) - 1 for count in counts], device=outputs.device)
            outputs = outputs.gather(1, last.view(-1, 1, 1).expand(-1, 1, outputs.shape[2]))
        self._outputs = outputs[:, -1:]
        return Proposal(self.logits(self._outputs))

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
        self._outputs = self.append(token_ids.unsqueeze(0), states, [len(token_ids)])
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
        return self.run(token_ids, self.states_after(above), prefixes + depths - 1, mask)
