"""Says once where a draft network's tokens are hardly ever accepted.

That is nearly always a checkpoint of another target or another dialect: nothing else shows, since
the text is right whatever is drafted.
"""

import logging
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from adaeagle.drafters.base import Drafter

log = logging.getLogger(__name__)

NUM_ROUNDS = 50
"""Rounds that drafted, whichever texts they belong to, before anything is said."""
LEAST_RATE = 0.02
"""Accepted tokens a round below which something is wrong."""


@dataclass(slots=True)
class _Tally:
    num_rounds: int = 0
    num_accepted: int = 0


_tallies: WeakKeyDictionary[Drafter, _Tally] = WeakKeyDictionary()


def watch_acceptance(drafter: Drafter, num_accepted: int) -> None:
    """Counts a round of one text that verified a draft; the 50th may warn.

    Args:
        drafter: one with a network: others may have nothing to copy.
        num_accepted: tokens of the draft.
    """
    tally = _tallies.setdefault(drafter, _Tally())
    if drafter.network is None or tally.num_rounds == NUM_ROUNDS:
        return
    tally.num_rounds += 1
    tally.num_accepted += num_accepted
    if tally.num_rounds == NUM_ROUNDS and tally.num_accepted < LEAST_RATE * NUM_ROUNDS:
        log.warning(
            "%s: %d drafted tokens were accepted in %d rounds. Was it trained for this target, and "
            "read as what it is? It was taken for one of kind %s.",
            drafter.name,
            tally.num_accepted,
            NUM_ROUNDS,
            drafter.kind,
        )
