"""Drafting with a small LM that decodes ahead by lookahead, lengthened by phrases it has met.

Source: Ouroboros, Zhao et al. 2024, https://arxiv.org/abs/2402.13720, and its code,
https://github.com/thunlp/Ouroboros.
Differs from it: pool and window begin anew with each text, so that results do not depend on what
was decoded before; what the target makes of a draft is read off every verified row, accepted or
not; a suffix that matches whole keeps its last token and the one after it; sampled text as well.

Shapes: P texts side by side, R rows of a forward of the draft LM, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adaeagle.drafters.base import Drafter, Proposal, Verified
from adaeagle.drafters.causal_lm import ModelDrafter
from adaeagle.drafters.lookahead import (
    Phrase,
    PhrasePool,
    Window,
    WindowRows,
    next_tokens,
    rest_of,
)
from adaeagle.drafters.lookup import Child, LookupSession, TextIndex
from adaeagle.models.target import Target
from adaeagle.tree import DraftTree, ExtraRows

Place = int | list[Phrase]
"""Where a node stands: its depth in the draft LM's own text, or what is left of phrases below."""


class DraftText(TextIndex[Place]):
    """One text, and what the draft LM decodes ahead of it.

    Args:
        drafter: of which sizes, with which draft LM.
        capacity: tokens of the text, about.
    """

    def __init__(self, drafter: "OuroborosDrafter", capacity: int) -> None:
        self._drafter, self._model = drafter, drafter.model
        self._session = drafter.model.begin(1, capacity, ())
        self._token_ids: list[int] = []  # the text
        self._ahead: list[int] = []  # what the draft LM goes on with
        self._num_new = 0  # tokens at the text's end that the draft LM has not been told of
        self.pool = PhrasePool(drafter.ngram - 1, drafter.guesses, from_text=False)
        self._window = Window(drafter.window, drafter.ngram - 1)
        self._rows = WindowRows(drafter.window, drafter.ngram - 1)
        self.num_forwards = 0

    def append(self, token_id: int) -> None:
        self._token_ids.append(token_id)
        self._num_new += 1

    def root(self) -> int | None:
        if len(self._token_ids) + self._drafter.most_ahead > self._model.max_length:
            return None
        self._take_in()
        return 0

    def children(self, state: Place) -> list[Child]:
        if isinstance(state, list):
            return next_tokens(state)
        while len(self._ahead) <= state:
            self._step()
        return [(self._ahead[state], 0.0)]

    def after(self, state: Place, token_id: int) -> Place:
        if isinstance(state, list):
            return rest_of(state, token_id)
        if state + 1 < self._drafter.length:
            return state + 1
        return self.pool.latest(token_id, self._drafter.suffixes)

    def _take_in(self) -> None:
        """Goes back to where the text has left what was decoded ahead, and reads what is new."""
        new = self._token_ids[len(self._token_ids) - self._num_new :]
        pairs = enumerate(zip(new, self._ahead, strict=False))
        right = next((place for place, (one, other) in pairs if one != other), None)
        right = min(len(new), len(self._ahead)) if right is None else right
        cached = self._session.cache.lengths[0]
        self._ahead = self._ahead[right:] if right == len(new) else []
        if not self._ahead:
            # The pending token is run with the next step.
            before = len(self._token_ids) - self._num_new
            cached = min(cached, before + right, len(self._token_ids) - 1)
            self._session.cache.begin_text(0, cached)
            if unseen := self._token_ids[cached:-1]:
                self._run(unseen, torch.ones(len(unseen) - 1, len(unseen) - 1).tril().bool(), None)
                self._session.commit([range(len(unseen))])
        self._num_new = 0

    def _step(self) -> None:
        """Decodes one token or more ahead: a round of lookahead decoding."""
        if not self._window.levels:
            self._window.begin(self._token_ids)
        pending = [*self._token_ids, *self._ahead][-1]
        tokens, parents = trie(self.pool.latest(pending, self._drafter.guesses))
        num_guessed = len(tokens)
        sees = torch.zeros(num_guessed, num_guessed, dtype=torch.bool)
        depths = [0] * num_guessed
        for node, parent in enumerate(parents):
            if parent >= 0:
                sees[node], depths[node] = sees[parent], depths[parent]
            sees[node, node], depths[node] = True, depths[node] + 1
        best = self._run(
            [pending, *tokens, *self._window.token_ids],
            torch.block_diag(sees, self._rows.allowed),  # type: ignore[no-untyped-call]
            torch.cat((torch.tensor(depths, dtype=torch.int64), self._rows.depths)),
        )
        path, node = [0], -1
        while (node := child_of(node, best[node + 1], tokens, parents)) >= 0:
            path.append(node + 1)
        self._session.commit([path])
        self._ahead += [best[row] for row in path]
        new = best[-self._drafter.window :]
        for key, phrase in self._window.phrases(pending, new):
            self.pool.add(key, phrase)
        self._window.step(new)

    def _run(self, token_ids: list[int], sees: Tensor, depths: Tensor | None) -> list[int]:
        """The draft LM's next token after each of R rows behind what is cached.

        Args:
            token_ids: of the rows; the first sees none of the others, all of them see it.
            sees: [R - 1, R - 1] bool, what the others see of each other.
            depths: [R - 1] int64 places behind the first; None: one after another.
        """
        device = self._model.device
        first, *others = token_ids
        if depths is None:
            depths = torch.arange(1, len(token_ids))
        rows = ExtraRows(
            torch.tensor([others], dtype=torch.int64, device=device),
            depths.to(device)[None],
            sees.to(device)[None],
        )
        tree = DraftTree.empty(1, device)
        roots = torch.tensor([first], device=device)
        _, logits = self._session.verify(roots, tree, tree.valid.unsqueeze(2), rows)
        self.num_forwards += 1
        best: list[int] = logits[0].argmax(-1).tolist()
        return best


def trie(phrases: Sequence[Phrase]) -> tuple[list[int], list[int]]:
    """Phrases as a tree: the token of each node and its parent, -1 for none."""
    tokens: list[int] = []
    parents: list[int] = []
    for phrase in phrases:
        node = -1
        for token_id in phrase:
            known = child_of(node, token_id, tokens, parents)
            if known < 0:
                known = len(tokens)
                tokens.append(token_id)
                parents.append(node)
            node = known
    return tokens, parents


def child_of(node: int, token_id: int, tokens: Sequence[int], parents: Sequence[int]) -> int:
    """The child of a node, -1 for the root, that is this token; -1 where there is none."""
    pairs = zip(tokens, parents, strict=True)
    return next((n for n, pair in enumerate(pairs) if pair == (token_id, node)), -1)


class OuroborosSession(LookupSession):
    """Texts on a draft LM, which runs for one after another."""

    @property
    def _texts(self) -> list[DraftText]:
        texts = []
        for index in self.indexes:
            assert isinstance(index, DraftText)
            texts.append(index)
        return texts

    def _counted(self, num_before: int, proposal: Proposal) -> Proposal:
        return replace(proposal, num_forwards=self._num_forwards - num_before)

    @property
    def _num_forwards(self) -> int:
        return sum(text.num_forwards for text in self._texts)

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        before = self._num_forwards
        return self._counted(before, super().catch_up(token_ids, features, counts))

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        before = self._num_forwards
        return self._counted(before, super().extend(token_ids, origins))

    def verified(self, result: Verified) -> None:
        """What the target would have gone on with after each verified token becomes a phrase."""
        tree = result.tree
        if tree.num_levels == 0:
            return
        best = result.logits.argmax(-1).tolist()
        for text, tokens, parents, valid, own in zip(
            self._texts,
            tree.token_ids.tolist(),
            tree.parents.tolist(),
            tree.valid.tolist(),
            best,
            strict=True,
        ):
            nodes = [(t if v else -1) for t, v in zip(tokens, valid, strict=True)]
            for start, key in enumerate(nodes):
                node, phrase = start, list[int]()
                while len(phrase) < text.pool.length:
                    phrase.append(own[node + 1])
                    node = child_of(node, phrase[-1], nodes, parents)
                    if node < 0:
                        break
                if key >= 0 and len(phrase) == text.pool.length:
                    text.pool.add(key, tuple(phrase))


class OuroborosDrafter(Drafter):
    """Drafts the greedy text of a small LM, and behind it the latest phrases after its last token.

    The draft LM makes up phrases by a lookahead window of its own and needs fewer forwards for it.

    Args:
        target: not used; the draft LM was made for it.
        draft_lm: `lm(...)`.
        length: tokens of the draft LM's own text.
        suffixes: phrases that lengthen it.
        window: columns of the draft LM's window.
        ngram: tokens of a phrase and the one it follows.
        guesses: phrases kept of each token, and tried at most by the draft LM.
    """

    kind = "ouroboros"
    score = "age"
    is_replayable = False

    def __init__(
        self,
        target: Target | None,
        draft_lm: ModelDrafter,
        length: int = 6,
        suffixes: int = 3,
        window: int = 8,
        ngram: int = 5,
        guesses: int = 8,
    ) -> None:
        if not isinstance(draft_lm, ModelDrafter):
            raise ValueError(f"draft_lm must be a draft LM such as lm(), got {draft_lm.name}")
        for name, value, least in (
            ("length", length, 1),
            ("suffixes", suffixes, 0),
            ("window", window, 2),
            ("ngram", ngram, 3),
            ("guesses", guesses, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        self.name = f"ouroboros over {draft_lm.name}"
        self.model, self.network = draft_lm.model, draft_lm.network
        self.length, self.suffixes = length, suffixes
        self.window, self.ngram, self.guesses = window, ngram, guesses
        self.max_depth = length + (ngram - 1 if suffixes else 0)
        # A step decodes a phrase and one token at most, and its window stands further right.
        self.most_ahead = length + window + 2 * ngram

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> OuroborosSession:
        return OuroborosSession(prompts, lambda: DraftText(self, capacity))
