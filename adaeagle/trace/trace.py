"""Recorded texts ready to be replayed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adaeagle.drafters.base import Drafter
from adaeagle.policy import Needs, Policy
from adaeagle.trace.envelope import Envelope
from adaeagle.trace.expander import Expander
from adaeagle.trace.positions import Positions
from adaeagle.trace.proposer import RecordedProposer, ReplayProposer
from adaeagle.trace.text import RecordedText
from adaeagle.trace.text_paths import TextPaths, text_path
from adaeagle.tree import DraftTree


class Trace:
    """The positions of recorded texts, and the drafts of each.

    Args:
        texts: in the order in which a policy that learns across texts sees them.
        vocab_size: of the target.
        drafter: called once, for a draft model, where a policy asks for a node that was not
            recorded; what it drafts is kept as long as this object. None: such a policy is refused.
    """

    def __init__(
        self,
        texts: Sequence[RecordedText],
        vocab_size: int,
        drafter: Callable[[], Drafter] | None = None,
    ) -> None:
        self.texts = list(texts)
        self.vocab_size = vocab_size
        self.positions = Positions(self.texts)
        if len(self.positions) == 0:
            raise ValueError("texts must have a position to draft at, got none")
        self.envelope = Envelope.join([text.envelope for text in self.texts])
        self.paths = TextPaths(self.envelope, self.positions)
        self._load = drafter
        self._expander: Expander | None = None

    def proposer(self, rows: Tensor, policy: Policy) -> ReplayProposer:
        """What stands in for the drafter at positions `rows` [P], each once.

        Raises:
            ValueError: the policy reads of drafts what they do not have.
        """
        if policy.needs.scores:
            raise ValueError(
                "scores were not recorded: of drafters that look tokens up, replay one"
            )
        return self.recorded(rows, policy.needs)

    def recorded(self, rows: Tensor, needs: Needs) -> RecordedProposer:
        """What stands in for the draft network."""
        expander = None if self._load is None else self._expand
        return RecordedProposer(self.envelope, rows, expander, self.vocab_size, needs)

    def path(self, rows: Tensor, proposer: ReplayProposer, tree: DraftTree) -> Tensor:
        """The drafted nodes that the texts go through, one a level: [P, L], -1 where none.

        Args:
            rows: [P] int64 positions.
            proposer: of these positions.
            tree: what it drafted, at least one level.
        """
        if proposer.runs is None:
            return text_path(tree, self.positions.following(rows, tree.num_levels))
        return torch.from_numpy(self.paths.through(rows, proposer.runs, tree.levels))

    def _expand(self) -> Expander:
        if self._expander is None:
            assert self._load is not None
            self._expander = Expander(self._load(), self.texts, self.positions, self.envelope)
        return self._expander
