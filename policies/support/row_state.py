"""What a learning rule remembers of each text, where several texts run side by side.

Shapes: P rounds side by side.
"""

from torch import Tensor


def for_rows(state: Tensor, num_rounds: int) -> Tensor:
    """A state of one text, or of `num_rounds` texts, as one entry a round: [1, ...] → [P, ...].

    A text begins with a state of one entry, which serves however many run side by side; from then
    on each row is a text of its own and keeps its place until the next `reset`.
    """
    if state.shape[0] not in (1, num_rounds):
        raise ValueError(
            f"rounds side by side must stay {state.shape[0]}, the texts learned from, "
            f"got {num_rounds}"
        )
    return state.expand(num_rounds, *state.shape[1:])
