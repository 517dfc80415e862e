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
Score = Literal["chance", "share", "length"]
NAMES: dict[Score, str] = {
    "chance": "chance of acceptance",
    "share": "share of occurrences",
    "length": "match length",
}
Place = tuple[int, int, float]
"""A state of the automaton, the length matched, and the share of occurrences that lead there."""


class SuffixIndex(TextIndex[Place]):
    """An automaton of a text.

    Args:
        min_match: shortest suffix to copy after.
        order: what comes first among children.
        score: of a node, see `SuffixDrafter`.
    """

    def __init__(self, min_match: int, order: Order, score: Score) -> None:
        self._min_match, self._order, self._score = min_match, order, score
        self._automaton = SuffixAutomaton()

    def append(self, token_id: int) -> None:
        self._automaton.append(token_id)

    def root(self) -> Place | None:
        return self._continued(*self._automaton.match(), 1.0)

    def children(self, state: Place) -> list[Child]:
        node, length, share = state
        shares = self._shares(state)
        if self._score == "length":
            return [(token, length) for token, _ in shares]
        if self._score == "share":
            return shares
        following = self._automaton.following(node).values()
        weight = length + sum(map(self._automaton.count, following)) - 1
        return [(token, each / share * weight / (weight + 2)) for token, each in shares]

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

    The score of a node is one of three. `chance` estimates how likely it is to be accepted where
    its parent is: with m tokens matched that occur n times, the share of the n that it follows,
    times (m + n - 1) / (m + n + 1). Of a token that always followed a single occurrence, SmolLM2
    accepts 29 % after one token matched, 53, 65, 71 and 75 % after two to five, 90 % after twelve.
    `share` is the share of all occurrences of the suffix which the node's path continues, `length`
    the length of the suffix.

    Args:
        target: not used; drafts come from the text alone.
        min_match: shortest suffix to copy after.
        order: which child comes first, the most `frequent` or the `latest`.
        score: `chance`, `share` or `length`.
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
        super().__init__("suffix", NAMES[score], lambda: SuffixIndex(min_match, order, score))
