"""Drafting by what followed the longest suffix of the text earlier in it.

Source: SAM-Decoding (Hu et al. 2024, https://arxiv.org/abs/2411.10666) for the automaton and
SuffixDecoding (Oliaro et al. 2024, https://arxiv.org/abs/2411.04975) for trees weighed by counts.
Differs from them: the text itself is the only thing searched, so that results do not depend on what
was decoded before; every continuation that occurs is offered and the policy chooses among them.
"""

from typing import Literal, get_args

from adaeagle.drafters.lookup import Child, LookupDrafter, TextIndex, check_choice
from adaeagle.drafters.suffix_automaton import SuffixAutomaton
from adaeagle.models.target import Target

Order = Literal["frequent", "latest"]
Score = Literal["share", "length"]
Place = tuple[int, int, float]
"""A state of the automaton, the length matched, and the share of occurrences that lead there."""


class SuffixIndex(TextIndex[Place]):
    """An automaton of a text.

    Args:
        min_match: shortest suffix to copy after.
        order: what comes first among children.
        score: of a node, the share of occurrences that it continues, or the length matched.
    """

    def __init__(self, min_match: int, order: Order, score: Score) -> None:
        self._min_match, self._order, self._score = min_match, order, score
        self._automaton = SuffixAutomaton()

    def append(self, token_id: int) -> None:
        self._automaton.append(token_id)

    def root(self) -> Place | None:
        return self._continued(*self._automaton.match(), 1.0)

    def children(self, state: Place) -> list[Child]:
        _, length, _ = state
        shares = self._shares(state)
        return [(token, share if self._score == "share" else length) for token, share in shares]

    def after(self, state: Place, token_id: int) -> Place | None:
        node, length, _ = state
        following = self._automaton.following(node)[token_id]
        return self._continued(following, length + 1, dict(self._shares(state))[token_id])

    def _shares(self, place: Place) -> list[Child]:
        """What follows, with the share of all occurrences of the root's suffix; best first."""
        automaton, (state, _, share) = self._automaton, place
        children = automaton.following(state)
        total = sum(map(automaton.count, children.values()))
        ranked = sorted(
            children.items(), key=lambda child: automaton.latest_end(child[1]), reverse=True
        )
        if self._order == "frequent":
            ranked.sort(key=lambda child: automaton.count(child[1]), reverse=True)
        return [(token, share * automaton.count(child) / total) for token, child in ranked]

    def _continued(self, state: int, length: int, share: float) -> Place | None:
        """The longest suffix of a state that something follows; None: too short a one."""
        while length >= self._min_match and not self._automaton.following(state):
            state, length = self._automaton.shorter(state)
        return (state, length, share) if length >= self._min_match else None


class SuffixDrafter(LookupDrafter):
    """Copies what followed the longest suffix that the text has said before.

    The score of a node is the share of that suffix's occurrences which the node's path continues,
    an estimate of how likely it is to be accepted, or the length of the suffix.

    Args:
        target: not used; drafts come from the text alone.
        min_match: shortest suffix to copy after.
        order: which child comes first, the most `frequent` or the `latest`.
        score: `share` or `length`.
    """

    kind = "suffix"

    def __init__(
        self,
        target: Target | None = None,
        min_match: int = 1,
        order: Order = "frequent",
        score: Score = "share",
    ) -> None:
        if min_match < 1:
            raise ValueError(f"min_match must be >= 1, got {min_match}")
        check_choice("order", order, get_args(Order))
        check_choice("score", score, get_args(Score))
        named = "match length" if score == "length" else "share of occurrences"
        super().__init__("suffix", named, lambda: SuffixIndex(min_match, order, score))
