"""A suffix automaton that grows with a text: every substring, how often and where it occurs.

Source: Blumer et al. 1985, The smallest automaton recognizing the subwords of a text, which grows
with it; for drafting SAM-Decoding, Hu et al. 2024, https://arxiv.org/abs/2411.10666.
Differs from it: states know how often and where they occurred last as well as first.
"""

START = 0
"""The state of the empty string."""


class SuffixAutomaton:
    """Substrings of a text; a state stands for those that end at the same places.

    A token is added in amortised constant time, apart from counting: that takes a step for every
    state on the way up from the whole text, of which there are few unless the text is a loop.
    """

    def __init__(self) -> None:
        self.num_tokens = 0
        self.tail = START
        """The state of the whole text."""
        self._next: list[dict[int, int]] = [{}]
        self._links = [-1]  # the state of the longest suffix that occurs elsewhere too
        self._lengths = [0]  # of the longest string of each state
        self._counts = [0]
        self._first = [0]  # tokens up to the end of an occurrence
        self._latest = [0]

    def append(self, token_id: int) -> None:
        """Adds a token to the text."""
        self.num_tokens += 1
        new = self._add({}, self.num_tokens, 0, self.num_tokens)
        state = self.tail
        while state >= 0 and token_id not in self._next[state]:
            self._next[state][token_id] = new
            state = self._links[state]
        self._links[new] = START if state < 0 else self._split(state, token_id)
        self.tail = state = new
        while state > START:
            self._counts[state] += 1
            self._latest[state] = self.num_tokens
            state = self._links[state]

    def match(self, most: int | None = None) -> tuple[int, int]:
        """The longest suffix of the text that occurs earlier in it: its state and its length.

        Args:
            most: its length at most; None: no bound.
        """
        state = max(self._links[self.tail], START)
        length = self._lengths[state]
        if most is None or length <= most:
            return state, length
        while self._lengths[self._links[state]] >= most:
            state = self._links[state]
        return state, most

    def shorter(self, state: int) -> tuple[int, int]:
        """The longest suffix of a state's strings that occurs more often, and its length."""
        state = self._links[state]
        return state, self._lengths[state]

    def following(self, state: int) -> dict[int, int]:
        """The tokens that follow a state's strings: the state after each."""
        return self._next[state]

    def count(self, state: int) -> int:
        """How often a state's strings occur, overlapping ones included."""
        return self._counts[state]

    def first_end(self, state: int) -> int:
        """Tokens of the text up to the end of the first occurrence."""
        return self._first[state]

    def latest_end(self, state: int) -> int:
        """Tokens of the text up to the end of the latest occurrence."""
        return self._latest[state]

    def _add(self, following: dict[int, int], length: int, count: int, first: int) -> int:
        self._next.append(following)
        self._lengths.append(length)
        self._counts.append(count)
        self._first.append(first)
        self._latest.append(first)
        self._links.append(START)
        return len(self._next) - 1

    def _split(self, state: int, token_id: int) -> int:
        """The state of the longest string of `state` and the token behind it, made if needed."""
        longer = self._next[state][token_id]
        length = self._lengths[state] + 1
        if self._lengths[longer] == length:
            return longer
        clone = self._add(
            dict(self._next[longer]), length, self._counts[longer], self._first[longer]
        )
        self._latest[clone] = self._latest[longer]
        self._links[clone], self._links[longer] = self._links[longer], clone
        while state >= 0 and self._next[state].get(token_id) == longer:
            self._next[state][token_id] = clone
            state = self._links[state]
        return clone
