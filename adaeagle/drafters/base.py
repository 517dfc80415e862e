"""The interface of draft models.

Shapes: P texts side by side (1 in live decoding), A tokens, W or Q nodes, V draft vocabulary,
D feature size.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class DraftSession(Protocol):
    """A draft model on one text.

    The session keeps two kinds of state: what it knows of the committed text, which only grows, and
    the nodes of the current round, which the next `catch_up` forgets.
    """

    def catch_up(self, token_ids: Tensor, features: Tensor | None) -> Tensor:
        """Takes in newly decided tokens and proposes what follows the last of them, the root.

        Args:
            token_ids: [P, A] int64, since the last call; the last one is the pending token.
            features: [P, A, D] the target's features of the positions just before each of them,
                those of `feature_layers` side by side; None where the drafter asks for none.

        Returns:
            logits [P, 1, V].
        """
        ...

    def extend(self, token_ids: Tensor, origins: Tensor) -> Tensor:
        """Runs drafted nodes and proposes what follows each.

        Args:
            token_ids: [P, W] int64.
            origins: [P, W] int64, the draft row each node was proposed from: 0 for the root's,
                then the nodes run so far in order.

        Returns:
            logits [P, W, V].
        """
        ...


class TextSession(Protocol):
    """A draft model on a whole known text, drafting after many of its prefixes at once.

    Every draft sees its own prefix and its own path, and proposes what a `DraftSession` would that
    had just caught up on that prefix.
    """

    @property
    def num_run(self) -> int:
        """Nodes run since the last `forget`."""
        ...

    def roots(self, lengths: Tensor) -> Tensor:
        """What follows prefixes of `lengths` [Q] tokens, at least 2: logits [Q, V]."""
        ...

    def extend(self, token_ids: Tensor, parents: Tensor, lengths: Tensor) -> Tensor:
        """Runs nodes and proposes what follows each.

        Args:
            token_ids: [Q] int64.
            parents: [Q] int64 nodes run since the last `forget`, in their order; -1 for the root.
            lengths: [Q] int64, tokens of the prefix each draft began after.

        Returns:
            logits [Q, V].
        """
        ...

    def forget(self) -> None:
        """Drops the nodes, so that their room can be used again."""
        ...


class Drafter(Protocol):
    """A draft model, without state of any text."""

    name: str

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """Which of the target's features sessions read, as in `Target.forward`; () for none."""
        ...

    @property
    def vocab_map(self) -> Tensor | None:
        """[V of the draft] target ids of a draft vocabulary of its own; None: the target's."""
        ...

    def begin(self, prompt_ids: Sequence[int], capacity: int) -> DraftSession:
        """A session on one text, with room for about `capacity` tokens to begin with."""
        ...


class TextDrafter(Drafter, Protocol):
    """A draft model whose drafts can be recorded."""

    def read(self, token_ids: Tensor, features: Tensor | None) -> TextSession:
        """A session on a whole known text.

        Args:
            token_ids: [A] int64, prompt and text.
            features: [A - 1, D] or more, the target's of `feature_layers`; None where the drafter
                asks for none.
        """
        ...
