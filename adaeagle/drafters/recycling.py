"""Drafting from what the target thought likely after the same token before.

Source: Token Recycling, Luo et al. 2024, https://arxiv.org/abs/2408.08696.
Differs from it: a table begins anew with each text, so that results do not depend on what was
decoded before; tokens that were not seen have no children, where the paper's table begins with
zeros; of a token verified more than once in a round, the accepted row counts, else the deepest.

Shapes: P texts side by side, N verified nodes, V vocabulary, K tokens kept.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from adaeagle.drafters.base import Drafter, Verified
from adaeagle.drafters.lookup import Child, LookupSession, TextIndex, check_choice
from adaeagle.models.target import Target

Update = Literal["all", "committed"]


class TokenTable(TextIndex[int]):
    """What followed each token in the target's opinion. A state is a token."""

    def __init__(self) -> None:
        self.following: dict[int, list[int]] = {}
        self.last = -1

    def append(self, token_id: int) -> None:
        self.last = token_id

    def root(self) -> int:
        return self.last

    def children(self, state: int) -> list[Child]:
        return [
            (token_id, -float(rank)) for rank, token_id in enumerate(self.following.get(state, []))
        ]

    def after(self, state: int, token_id: int) -> int:
        return token_id


class RecyclingSession(LookupSession):
    """Texts with a table each.

    Args:
        prompts: of the texts.
        num_kept: K, of the target's likeliest tokens.
        update: which verified rows are read.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], num_kept: int, update: Update) -> None:
        super().__init__(prompts, TokenTable)
        self._num_kept, self._update = num_kept, update

    def verified(self, result: Verified) -> None:
        tree = result.tree
        if tree.num_levels == 0:
            return  # nothing was drafted: the pending token has not been handed over
        likely = result.logits.topk(min(self._num_kept, result.logits.shape[-1])).indices.tolist()
        for index, rows, token_ids, valid, tops in zip(
            self.indexes,
            result.rows,
            tree.token_ids.tolist(),
            tree.valid.tolist(),
            likely,
            strict=True,
        ):
            assert isinstance(index, TokenTable)
            index.following[index.last] = tops[0]
            # Later rows overwrite earlier ones: deeper nodes, then what was accepted.
            others = range(len(token_ids)) if self._update == "all" else ()
            for node in (*others, *rows):
                if valid[node]:
                    index.following[token_ids[node]] = tops[node + 1]


class RecyclingDrafter(Drafter):
    """Drafts, after each token, the tokens that the target held likeliest after it the last time.

    The score of a node is its rank among its siblings, 0 for the first and negative for the rest.

    Args:
        target: not used; the table is made of what verification shows.
        num_kept: tokens kept after each one; the paper has 8.
        update: which verified rows are read, `all` as in the paper or the `committed` ones.
    """

    kind = "recycling"
    score = "rank"
    is_replayable = False

    def __init__(
        self, target: Target | None = None, num_kept: int = 8, update: Update = "all"
    ) -> None:
        if num_kept < 1:
            raise ValueError(f"num_kept must be >= 1, got {num_kept}")
        check_choice("update", update, get_args(Update))
        self.name = "recycling"
        self._num_kept, self._update = num_kept, update

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> RecyclingSession:
        return RecyclingSession(prompts, self._num_kept, self._update)
