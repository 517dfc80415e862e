"""Drafting by copying what followed the same n-gram earlier in the text.

Source: prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding),
as `prompt_lookup_num_tokens` of `transformers` and `ngram` of vLLM have it.
Differs from them: a draft is as long as the policy says, and answers are looked up in an index that
grows with the text, where they search the whole text in each round.
"""

from collections import Counter
from typing import Literal, get_args

from adaeagle.drafters.lookup import Child, LookupDrafter, TextIndex, check_choice
from adaeagle.models.target import Target

Occurrence = Literal["first", "latest", "frequent"]


class NgramIndex(TextIndex[tuple[int, int]]):
    """Where the n-grams of a text end. A state is a place to copy from and the length matched.

    Args:
        n_min: shortest n-gram looked for.
        n_max: longest one, which is tried first.
        occurrence: which of several to copy from.
    """

    def __init__(self, n_min: int, n_max: int, occurrence: Occurrence) -> None:
        self._sizes = range(n_max, n_min - 1, -1)
        self._occurrence = occurrence
        self._token_ids: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}  # tokens up to the end of each

    def append(self, token_id: int) -> None:
        # An n-gram can be copied from once something follows it.
        end = len(self._token_ids)
        for size in self._sizes:
            if size <= end:
                self._ends.setdefault(tuple(self._token_ids[end - size :]), []).append(end)
        self._token_ids.append(token_id)

    def root(self) -> tuple[int, int] | None:
        for size in self._sizes:
            if ends := self._ends.get(tuple(self._token_ids[-size:])):
                return self._chosen(ends), size
        return None

    def _chosen(self, ends: list[int]) -> int:
        if self._occurrence == "first":
            return ends[0]
        if self._occurrence == "latest":
            return ends[-1]
        following = [self._token_ids[end] for end in ends]
        counts = Counter(following)
        # Of what follows equally often the latest one, and the latest place of it.
        most = max(reversed(following), key=counts.__getitem__)
        return max(end for end, token in zip(ends, following, strict=True) if token == most)

    def children(self, state: tuple[int, int]) -> list[Child]:
        place, size = state
        return [(token_id, float(size)) for token_id in self._token_ids[place : place + 1]]

    def after(self, state: tuple[int, int], token_id: int) -> tuple[int, int]:
        place, size = state
        return place + 1, size


class NgramDrafter(LookupDrafter):
    """Copies what followed the longest n-gram that ends the text and occurs earlier in it.

    The score of a node is the length of the n-gram that was found.

    Args:
        target: not used; drafts come from the text alone.
        n_min: shortest n-gram looked for.
        n_max: longest one; `transformers` has 2.
        occurrence: of several, the `first` (as `transformers` and vLLM), the `latest`, or the
            latest one followed by the most `frequent` token.
    """

    kind = "ngram"

    def __init__(
        self,
        target: Target | None = None,
        n_min: int = 1,
        n_max: int = 4,
        occurrence: Occurrence = "latest",
    ) -> None:
        if not 1 <= n_min <= n_max:
            raise ValueError(f"n_min must be from 1 to n_max = {n_max}, got {n_min}")
        check_choice("occurrence", occurrence, get_args(Occurrence))
        super().__init__("ngram", "match length", lambda: NgramIndex(n_min, n_max, occurrence))
