"""The interface of draft models.

Shapes: P texts side by side (1 in live decoding), A newly known tokens, W nodes,
V draft vocabulary, D feature size.
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
