"""The interface of drafters: whatever proposes tokens for the target to verify.

One form serves four families: networks that run level by level (EAGLE, a draft LM), networks that
propose several levels at once (Medusa), look-ups in the text (n-grams, suffixes), and unions of
them. Whoever computes several levels at once keeps them and answers `extend` from what was kept.

Shapes: P texts side by side, A tokens, W nodes, C candidates of a node, V draft vocabulary, D size
of a target's features, R rows of a verification.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from adaeagle.display import Displayed
from adaeagle.tree import DraftTree, ExtraRows

Pending = tuple[Tensor, Tensor | None, Sequence[int]]
"""What `DraftSession.catch_up` takes: tokens, features, and how many are each text's own."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Ready-made children, each counted as drawn from a point mass."""

    token_ids: Tensor  # [P, W, C] int64, best first
    num_children: Tensor  # [P, W] int64, how many of C there are
    scores: Tensor  # [P, W, C] float32, as the drafter names them; they are no log-probs


@dataclass(frozen=True, slots=True)
class Proposal:
    """What may follow each of W nodes: logits, or candidates in their place."""

    logits: Tensor | None = None  # [P, W or 1, V]; 1: the same after every node of the level
    candidates: Candidates | None = None
    num_forwards: int = 1  # forwards of a draft network that it took


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification has shown a drafter."""

    tree: DraftTree  # N verified nodes
    rows: list[list[int]]  # of each text, the accepted nodes from the root down
    logits: Tensor  # [P, 1 + N, V] the target's, after the root and after every node
    extra_logits: Tensor | None = None  # [P, X, V] after the extra rows


class DraftSession(ABC):
    """A drafter on texts that are being decoded.

    The session keeps two kinds of state: what it knows of the committed texts, which only grows,
    and the nodes of the current round, which the next `catch_up` forgets.
    """

    beside: "DraftSession | None" = None
    """A draft network's session whose children join this one's, see `MergedDrafter`."""

    def pending_beside(self) -> Pending:
        """What the session beside this one has not taken in yet; it is handed over but once."""
        raise NotImplementedError(f"nothing drafts beside {type(self).__name__}")

    @abstractmethod
    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        """Takes in newly decided tokens and proposes what follows the last of them, the root.

        Called before a round's first level; rounds that draft nothing call it not at all, and the
        next one hands over what they decided.

        Args:
            token_ids: [P, A] int64, since the last call; the last one of a text is pending.
            features: [P, A, D] the target's features of the positions just before each of them,
                those of `feature_layers` side by side; None where the drafter asks for none.
            counts: of each text, how many of A are its own, the first ones; 0 leaves it alone.

        Returns:
            what follows each root, W = 1.
        """

    @abstractmethod
    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        """Goes on from drafted nodes, all of one level.

        Args:
            token_ids: [P, W] int64.
            origins: [P, W] int64, the draft row each was proposed from: 0 for the root's, then the
                nodes gone on from so far, in order.
        """

    def replace(self, row: int, prompt_ids: Sequence[int]) -> None:
        """A new text takes the place of one that has ended."""
        raise NotImplementedError(f"{type(self).__name__} drafts for one text")

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with some of the texts alone, ascending: the others have ended."""
        raise NotImplementedError(f"{type(self).__name__} drafts for one text")

    def extra_rows(self) -> ExtraRows | None:
        """Rows to run beside this round's nodes."""
        return None

    def verified(self, result: Verified) -> None:
        """After each verification: what the target made of the draft."""


class PrefixSession(Protocol):
    """A drafter on a whole known text, drafting after many of its prefixes at once.

    Every draft sees its own prefix and its own path, and proposes what a `DraftSession` would that
    had just caught up on that prefix.
    """

    @property
    def num_run(self) -> int:
        """Nodes run since the last `reset`."""
        ...

    def roots(self, lengths: Tensor) -> Proposal:
        """What follows prefixes of `lengths` [Q] tokens, at least 2: P = 1 and W = Q."""
        ...

    def extend_prefixes(self, token_ids: Tensor, parents: Tensor, lengths: Tensor) -> Proposal:
        """Runs nodes and proposes what follows each.

        Args:
            token_ids: [Q] int64.
            parents: [Q] int64 nodes run since the last `reset`, in their order; -1 for the root.
            lengths: [Q] int64, tokens of the prefix each draft began after.

        Returns:
            P = 1 and W = Q.
        """
        ...

    def reset(self) -> None:
        """Drops the nodes, so that their room can be used again."""
        ...


class Drafter(Displayed, ABC):
    """Proposes tokens for one target; without state of any text."""

    name: str
    """What results call it."""

    kind: str = ""
    """The family: eagle, eagle3, lm, ngram, ..."""

    feature_layers: tuple[int, ...] = ()
    """Which of the target's features sessions read, as in `Target.forward`; () for none."""

    vocab_map: Tensor | None = None
    """[V of the draft] target ids of a draft vocabulary of its own; None: the target's."""

    max_depth: int | None = None
    """Most levels it can draft, such as Medusa's number of heads; None: any number."""

    is_replayable: bool = True
    """A draft depends on the text alone, not on earlier rounds, so that it can be recorded."""

    score: str | None = None
    """What the scores of its ready-made candidates are; None: it proposes distributions."""

    parts: "tuple[Drafter, ...]" = ()
    """Of a merged drafter its network and its look-up; () of any other."""

    network: nn.Module | None = None
    """Whose weights tell it from others of its name; None where there are none."""

    def summary(self) -> dict[str, object]:
        return {"name": repr(self.name), "kind": self.kind, "max_depth": self.max_depth}

    @abstractmethod
    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> DraftSession:
        """A session on texts side by side, with room for about `capacity` tokens of each."""

    def open(self, token_ids: Tensor, features: Tensor | None) -> PrefixSession:
        """A session on a whole known text.

        Args:
            token_ids: [A] int64, prompt and text.
            features: [A - 1, D] or more, the target's of `feature_layers`; None where the drafter
                asks for none.

        Raises:
            NotImplementedError: its drafts depend on more than the text, with the reason.
        """
        raise NotImplementedError(
            f"{self.name} cannot be recorded: its drafts depend on more than the text"
        )
