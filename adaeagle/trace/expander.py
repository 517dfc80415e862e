"""Drafts nodes that an envelope lacks, by the real draft model on the recorded texts.

Shapes: M nodes asked for, R recorded ranks, V draft vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.decoding.proposals import best
from adaeagle.drafters.base import Drafter, PrefixSession, Proposal
from adaeagle.trace.envelope import UNKNOWN, Envelope
from adaeagle.trace.positions import Positions
from adaeagle.trace.text import RecordedText

MAX_ROWS = 256
"""Nodes in one forward: bounds its mask and its logits."""
MAX_NODES = 4096
"""Nodes kept in a draft model's cache; what is dropped is run again where it is needed."""
MAX_TEXTS = 64
"""Texts kept open."""


class _OpenText:
    """A text on the draft model, and which of the envelope's nodes its session has run."""

    def __init__(self, session: PrefixSession) -> None:
        self.session = session
        self.run: dict[int, int] = {}

    def remember(self, nodes: Sequence[int]) -> None:
        """Says that `nodes` are the last that were run, in this order."""
        first = self.session.num_run - len(nodes)
        self.run.update(zip(nodes, range(first, self.session.num_run), strict=True))

    def forget(self) -> None:
        self.run.clear()
        self.session.reset()


class Expander:
    """The draft model on recorded texts; runs nodes of many positions in one masked forward.

    Args:
        drafter: proposes.
        texts: whose positions `envelope` numbers through.
        positions: of `texts`.
        envelope: what is known, and grows.
    """

    def __init__(
        self,
        drafter: Drafter,
        texts: Sequence[RecordedText],
        positions: Positions,
        envelope: Envelope,
    ) -> None:
        self._drafter = drafter
        self._texts = texts
        self._positions = positions
        self._envelope = envelope
        self._open: dict[int, _OpenText] = {}
        self.num_drafted = 0
        """Nodes drafted so far."""

    @torch.inference_mode()
    def add(self, rows: Tensor, parents: Tensor, ranks: Tensor) -> Tensor:
        """Drafts children of nodes that were not run: numbers of the new nodes, [M] int64.

        Args:
            rows: [M] int64 positions.
            parents: [M] int64 nodes that were run, -1 where the root itself is asked for.
            ranks: [M] int64, which child of the parent to run.
        """
        found = torch.full_like(rows, UNKNOWN)
        for text, chosen in self._by_text(rows):
            for part in torch.split(chosen, MAX_ROWS):
                where = rows[part], parents[part], ranks[part]
                opened = self._text(text)
                new = self._envelope.add(*where, *self._best(self._propose(opened, *where)))
                opened.remember(new[parents[part] >= 0].tolist())
                found[part] = new
        self.num_drafted += len(rows)
        return found

    @torch.inference_mode()
    def widen(self, nodes: Tensor) -> None:
        """Drafts nodes [M] again whose children of the envelope's last ranks are not known."""
        envelope = self._envelope
        for text, chosen in self._by_text(envelope.positions[nodes]):
            for part in torch.split(nodes[chosen], MAX_ROWS):
                opened = self._text(text)
                where = envelope.positions[part], envelope.parents[part], envelope.ranks[part]
                token_ids, log_probs, _ = self._best(self._propose(opened, *where))
                envelope.replace(part, token_ids, log_probs)
                opened.forget()  # a node that was run twice would be remembered once
        self.num_drafted += len(nodes)

    def forget(self) -> None:
        """Makes room: ancestors of nodes that are asked for later are run again."""
        for opened in self._open.values():
            opened.forget()

    def _by_text(self, rows: Tensor) -> list[tuple[int, Tensor]]:
        """The texts that `rows` are positions of, each with the places of its own in `rows`."""
        texts = self._positions.text_of[rows]
        return [
            (text, (texts == text).nonzero().flatten()) for text in torch.unique(texts).tolist()
        ]

    def _text(self, number: int) -> _OpenText:
        """A text's session, with room for some more nodes."""
        opened = self._open.pop(number, None)
        if opened is None:
            text = self._texts[number]
            features = text.features if text.draft_features is None else text.draft_features
            token_ids = torch.cat((text.prompt_ids, text.token_ids))
            opened = _OpenText(self._drafter.open(token_ids, features))
            if len(self._open) == MAX_TEXTS:
                del self._open[next(iter(self._open))]  # the one not asked for longest
        if opened.session.num_run > MAX_NODES:
            opened.forget()
        self._open[number] = opened
        return opened

    def _propose(self, opened: _OpenText, rows: Tensor, parents: Tensor, ranks: Tensor) -> Tensor:
        """Logits [M, V] after nodes, whose ancestors are run first where they are not."""
        lengths = self._positions.num_tokens[rows]
        is_node = parents >= 0
        if not is_node.any():
            return _logits(opened.session.roots(lengths))
        if not is_node.all():
            roots = _logits(opened.session.roots(lengths[~is_node]))
            inner = self._extend(opened, rows[is_node], parents[is_node], ranks[is_node])
            logits = inner.new_empty(len(rows), inner.shape[1])
            logits[is_node], logits[~is_node] = inner, roots
            return logits
        return self._extend(opened, rows, parents, ranks)

    def _extend(self, opened: _OpenText, rows: Tensor, parents: Tensor, ranks: Tensor) -> Tensor:
        self._run_ancestors(opened, parents)
        token_ids = self._envelope.token_ids[parents, ranks]
        # The root is run with the text, it is no node of the session.
        above = torch.tensor([opened.run.get(parent, UNKNOWN) for parent in parents.tolist()])
        lengths = self._positions.num_tokens[rows]
        return _logits(opened.session.extend_prefixes(token_ids, above, lengths))

    def _run_ancestors(self, opened: _OpenText, nodes: Tensor) -> None:
        """Runs `nodes` and what they hang from, where the session has not; a root needs no run."""
        envelope = self._envelope
        is_missing = [
            parent >= 0 and node not in opened.run
            for node, parent in zip(nodes.tolist(), envelope.parents[nodes].tolist(), strict=True)
        ]
        missing = torch.unique(nodes[torch.tensor(is_missing, dtype=torch.bool)])
        if len(missing) == 0:
            return
        where = envelope.positions[missing], envelope.parents[missing], envelope.ranks[missing]
        self._extend(opened, *where)
        opened.remember(missing.tolist())

    def _best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the envelope keeps of distributions [M, V].

        Ids and log-probs [M, R], entropies [M].
        """
        num_ranks = min(self._envelope.num_ranks, logits.shape[1])
        ids, log_probs, entropies = best(logits, num_ranks, needs_entropy=True)
        if self._drafter.vocab_map is not None:
            ids = self._drafter.vocab_map[ids]
        assert entropies is not None
        more = self._envelope.num_ranks - num_ranks  # a vocabulary smaller than the tree is wide
        ids = F.pad(ids, (0, more), value=UNKNOWN)
        return ids.cpu(), F.pad(log_probs, (0, more), value=-torch.inf).cpu(), entropies.cpu()


def _logits(proposal: Proposal) -> Tensor:
    """Of nodes side by side: [Q, V]."""
    assert proposal.logits is not None
    return proposal.logits[0]
