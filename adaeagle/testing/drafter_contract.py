"""What every drafter must keep, as a test class to subclass."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adaeagle.decoding.generate import generate
from adaeagle.decoding.sampling import SamplingMode
from adaeagle.drafters.base import Candidates, Drafter, DraftSession, Proposal, Verified
from adaeagle.models.backbone import LAST
from adaeagle.models.target import Target
from adaeagle.policy import Budget, Context, Policy
from adaeagle.records import Generation
from adaeagle.testing.contracts import Plain, tiny_pair
from adaeagle.tree import ExtraRows

PROMPT = [1, 5, 9, 2, 5, 9]
OTHER = [7, 3, 3]
LENGTH = 24
CLOSE = 1e-4


class Beam(Policy):
    """Drafts in every round, or in each third round alone."""

    def __init__(self, depth: int, width: int, every: int = 1) -> None:
        self.depth, self.width, self.every = depth, width, every

    def plan(self, context: Context) -> Budget:
        return Budget(depth=self.depth if context.round % self.every == 0 else 0, width=self.width)


class DrafterContract:
    """Tests of one drafter. Subclass it and give the fixture `drafter`.

    A drafter that is made for one target alone needs the fixture `target` as well. Its text of
    `PROMPT` must be longer than `LENGTH` tokens.
    """

    @pytest.fixture
    def target(self) -> Target:
        """What is drafted for: a random Llama of 32 tokens and width 16."""
        return tiny_pair(32, 16)[0]

    @pytest.fixture
    def drafter(self, target: Target) -> Drafter:
        """The drafter under test."""
        raise NotImplementedError(f"{type(self).__name__} must have a fixture `drafter`")

    @pytest.mark.parametrize("policy", [Beam(4, 1), Beam(3, 3), Beam(4, 2, every=3)])
    def test_text_is_the_targets_own(
        self, target: Target, drafter: Drafter, policy: Policy
    ) -> None:
        out = text_of(target, drafter, policy)
        assert out.token_ids == text_of(target, None, Plain()).token_ids
        for done in out.rounds:
            assert done.num_accepted <= done.num_verified <= done.num_drafted
            assert done.depth <= (drafter.max_depth or LENGTH)

    def test_sampled_text(self, target: Target, drafter: Drafter) -> None:
        """With coupled noise the text is the target's own, token for token, whatever is drafted."""
        plain = text_of(target, None, Plain(), 1.0, "coupled")
        assert text_of(target, drafter, Beam(3, 2), 1.0, "coupled").token_ids == plain.token_ids

    def test_the_seed_decides(self, target: Target, drafter: Drafter) -> None:
        once = text_of(target, drafter, Beam(3, 2), 1.0)
        assert text_of(target, drafter, Beam(3, 2), 1.0).token_ids == once.token_ids

    def test_texts_do_not_depend_on_what_came_before(
        self, target: Target, drafter: Drafter
    ) -> None:
        def rounds() -> list[tuple[int, int]]:
            done = text_of(target, drafter, Beam(4, 1)).rounds
            return [(r.num_drafted, r.num_accepted) for r in done]

        first = rounds()
        generate(target, drafter, Beam(4, 1), OTHER, max_new_tokens=8)
        assert rounds() == first

    @pytest.mark.parametrize("num_right", [0, 1, 3])
    def test_right_tokens_are_accepted_and_one_more(
        self, target: Target, drafter: Drafter, num_right: int
    ) -> None:
        """With `num_right` true tokens in front of wrong ones, a round emits one token more."""
        if drafter.max_depth is not None:
            num_right = min(num_right, drafter.max_depth)
        truth = text_of(target, None, Plain())
        oracle = Oracle(drafter, [*PROMPT, *truth.token_ids], num_right, target.vocab_size)
        out = text_of(target, oracle, Beam(drafter.max_depth or 5, 1))
        assert out.token_ids == truth.token_ids
        for done in out.rounds[:-1]:
            assert done.num_accepted == num_right
            assert done.num_emitted == num_right + 1

    @torch.inference_mode()
    def test_proposals_fit(self, target: Target, drafter: Drafter) -> None:
        vocab = target.vocab_size if drafter.vocab_map is None else len(drafter.vocab_map)
        text = Text(target, drafter, PROMPT)
        session = drafter.begin([PROMPT], LENGTH)
        proposal, num_nodes, num_rows = text.catch_up(session, 1, 5), 1, 1
        for level in range(min(3, drafter.max_depth or 3)):
            check_proposal(proposal, num_nodes, vocab, target.vocab_size)
            chosen = children_of(proposal, 2)
            if not chosen or level + 1 == drafter.max_depth:
                break
            origin, num_nodes = num_rows - num_nodes, len(chosen)
            proposal = session.extend(torch.tensor([chosen]), torch.full((1, num_nodes), origin))
            num_rows += num_nodes

    @torch.inference_mode()
    def test_rounds_without_a_draft(self, target: Target, drafter: Drafter) -> None:
        """What was decided in several rounds may come at once."""
        text = Text(target, drafter, PROMPT)
        bit_by_bit, at_once = drafter.begin([PROMPT], LENGTH), drafter.begin([PROMPT], LENGTH)
        text.catch_up(bit_by_bit, 1, 3)
        text.catch_up(bit_by_bit, 3, 4)
        found = text.catch_up(bit_by_bit, 4, 6)
        assert_equal(found, text.catch_up(at_once, 1, 6))

    @torch.inference_mode()
    def test_a_draft_is_forgotten(self, target: Target, drafter: Drafter) -> None:
        text = Text(target, drafter, PROMPT)
        busy, idle = drafter.begin([PROMPT], LENGTH), drafter.begin([PROMPT], LENGTH)
        text.draft(busy, text.catch_up(busy, 1, 4))
        text.catch_up(idle, 1, 4)
        assert_equal(text.catch_up(busy, 4, 6), text.catch_up(idle, 4, 6))

    @torch.inference_mode()
    def test_interleaved_sessions(self, target: Target, drafter: Drafter) -> None:
        texts = [Text(target, drafter, ids) for ids in (PROMPT, OTHER)]
        sessions = [drafter.begin([ids], LENGTH) for ids in (PROMPT, OTHER)]
        together = [[text.catch_up(s, 1, 2)] for text, s in zip(texts, sessions, strict=True)]
        for found, text, session in zip(together, texts, sessions, strict=True):
            found += text.draft(session, found[0])
        for found, text, session in zip(together, texts, sessions, strict=True):
            found.append(text.catch_up(session, 2, 3))
        for found, text, ids in zip(together, texts, (PROMPT, OTHER), strict=True):
            session = drafter.begin([ids], LENGTH)
            first = text.catch_up(session, 1, 2)
            alone = [first, *text.draft(session, first), text.catch_up(session, 2, 3)]
            for one, other in zip(found, alone, strict=True):
                assert_equal(one, other)

    @torch.inference_mode()
    def test_texts_side_by_side(self, target: Target, drafter: Drafter) -> None:
        """Two texts of one session, which get on at different paces, go as each would alone."""
        texts = [Text(target, drafter, ids) for ids in (PROMPT, OTHER)]
        session = drafter.begin([PROMPT, OTHER], LENGTH)
        side_by_side(texts, session, (1, 1), (4, 2))
        found = side_by_side(texts, session, (4, 2), (5, 3))
        for row, (text, ids, (before, end)) in enumerate(
            zip(texts, (PROMPT, OTHER), ((4, 5), (2, 3)), strict=True)
        ):
            alone = drafter.begin([ids], LENGTH)
            text.catch_up(alone, 1, before)
            assert_equal(row_of(found, row), text.catch_up(alone, before, end))

    @torch.inference_mode()
    def test_replay(self, target: Target, drafter: Drafter) -> None:
        """A known text is drafted after as it was live, or refused by name and with the reason."""
        text = Text(target, drafter, PROMPT)
        features = None if text.features is None else text.features[0]
        if not drafter.is_replayable:
            with pytest.raises(NotImplementedError, match=r"cannot be recorded: .+") as refused:
                drafter.open(torch.tensor(PROMPT), features)
            assert drafter.name in str(refused.value)
            return
        opened = drafter.open(torch.tensor(PROMPT), features)
        for length in (2, 4, len(PROMPT)):
            session = drafter.begin([PROMPT], LENGTH)
            live = text.catch_up(session, 1, length)
            where = torch.tensor([length])
            assert_equal(opened.roots(where), live)
            if drafter.max_depth == 1 or not (chosen := children_of(live, 1)):
                continue
            parents = torch.tensor([-1])
            node = torch.tensor(chosen)
            assert_equal(
                opened.extend_prefixes(node, parents, where),
                session.extend(node[None], torch.zeros(1, 1, dtype=torch.int64)),
            )


def text_of(
    target: Target,
    drafter: Drafter | None,
    policy: Policy,
    temperature: float = 0.0,
    sampling: SamplingMode = "rejection",
) -> Generation:
    """What follows `PROMPT`."""
    return generate(
        target,
        drafter,
        policy,
        PROMPT,
        max_new_tokens=LENGTH,
        temperature=temperature,
        sampling=sampling,
        seed=4,
        stop_token_ids=[],
    )


class Text:
    """A known text, and the target's features of it.

    Args:
        target: what is drafted for.
        drafter: says which features.
        token_ids: the text.
    """

    def __init__(self, target: Target, drafter: Drafter, token_ids: Sequence[int]) -> None:
        self.token_ids = torch.tensor([list(token_ids)])
        positions = torch.arange(len(token_ids))[None]
        layers = drafter.feature_layers
        found = target.forward(self.token_ids, positions, None, None, layers or (LAST,))
        self.features = found.chosen if layers else None

    def part(self, start: int, end: int) -> tuple[Tensor, Tensor | None]:
        """Tokens from `start` to `end`, and the features just before each."""
        features = None if self.features is None else self.features[:, start - 1 : end - 1]
        return self.token_ids[:, start:end], features

    def catch_up(self, session: DraftSession, start: int, end: int) -> Proposal:
        """Tokens from `start` to `end` are decided."""
        return session.catch_up(*self.part(start, end), [end - start])

    def draft(self, session: DraftSession, root: Proposal) -> list[Proposal]:
        """A level of two children of the root."""
        if not (chosen := children_of(root, 2)):
            return []
        origins = torch.zeros(1, len(chosen), dtype=torch.int64)
        return [session.extend(torch.tensor([chosen]), origins)]


def side_by_side(
    texts: Sequence[Text], session: DraftSession, starts: Sequence[int], ends: Sequence[int]
) -> Proposal:
    """Texts catch up together, padded behind."""
    parts = [text.part(*span) for text, *span in zip(texts, starts, ends, strict=True)]
    counts = [ids.shape[1] for ids, _ in parts]

    def padded(values: Sequence[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([v[0] for v in values], batch_first=True)

    features = [each for _, each in parts if each is not None]
    return session.catch_up(
        padded([ids for ids, _ in parts]), padded(features) if features else None, counts
    )


class Oracle(Drafter):
    """Another drafter, whose best child is replaced: by the truth down to a depth, else wrong.

    Args:
        drafter: runs as ever.
        text_ids: prompt and text, as the target decodes it.
        num_right: levels that propose the truth.
        vocab_size: of the target.
    """

    def __init__(
        self, drafter: Drafter, text_ids: Sequence[int], num_right: int, vocab_size: int
    ) -> None:
        self.name, self.kind = f"oracle over {drafter.name}", drafter.kind
        self.feature_layers, self.max_depth = drafter.feature_layers, drafter.max_depth
        self.drafter, self.text_ids = drafter, text_ids
        self.num_right, self.vocab_size = num_right, vocab_size

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> DraftSession:
        return OracleSession(self, self.drafter.begin(prompts, capacity))


class OracleSession(DraftSession):
    """A single text, decoded from `Oracle.text_ids`."""

    def __init__(self, oracle: Oracle, session: DraftSession) -> None:
        self._oracle = oracle
        self._session = session
        self._num_tokens = 1  # decided; the first one of the prompt is not handed over
        self._depth = 0

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        self._num_tokens += counts[0]
        self._depth = 0
        return self._replaced(self._session.catch_up(token_ids, features, counts))

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        self._depth += 1
        return self._replaced(self._session.extend(token_ids, origins))

    def extra_rows(self) -> ExtraRows | None:
        return self._session.extra_rows()

    def verified(self, result: Verified) -> None:
        self._session.verified(result)

    def _replaced(self, proposal: Proposal) -> Proposal:
        oracle, place = self._oracle, self._num_tokens + self._depth
        token_id = oracle.text_ids[place] if place < len(oracle.text_ids) else 0
        if self._depth >= oracle.num_right:
            token_id = (token_id + 1) % oracle.vocab_size
        child = torch.full((1, 1, 1), token_id)
        candidates = Candidates(child, torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1, 1))
        return replace(proposal, logits=None, candidates=candidates)


def check_proposal(proposal: Proposal, num_nodes: int, vocab: int, target_vocab: int) -> None:
    """Shapes and ranges of what follows `num_nodes` nodes of a text."""
    assert proposal.num_forwards >= 0
    assert (proposal.logits is None) != (proposal.candidates is None), (
        "a proposal must have logits or candidates, and not both"
    )
    if proposal.logits is not None:
        assert proposal.logits.shape in ((1, num_nodes, vocab), (1, 1, vocab))
        assert not bool(proposal.logits.isnan().any())
        return
    found = proposal.candidates
    assert found is not None
    assert found.token_ids.shape[:2] == found.num_children.shape == (1, num_nodes)
    assert found.scores.shape == found.token_ids.shape
    assert bool((found.num_children <= found.token_ids.shape[2]).all())
    assert bool(((found.token_ids >= 0) & (found.token_ids < target_vocab)).all())
    for ids, count in zip(found.token_ids[0].tolist(), found.num_children[0].tolist(), strict=True):
        assert len(set(ids[:count])) == count, "the children of a node must differ"


def children_of(proposal: Proposal, count: int) -> list[int]:
    """The first node's best children, as the session is handed them."""
    if proposal.logits is not None:
        return proposal.logits[0, 0].topk(count).indices.tolist()
    assert proposal.candidates is not None
    found = proposal.candidates.token_ids[0, 0, : int(proposal.candidates.num_children[0, 0])]
    return found[:count].tolist()


def row_of(proposal: Proposal, row: int) -> Proposal:
    """What was proposed for one of the texts."""
    if proposal.logits is not None:
        return replace(proposal, logits=proposal.logits[row, None])
    found = proposal.candidates
    assert found is not None
    parts = (found.token_ids, found.num_children, found.scores)
    return replace(proposal, candidates=Candidates(*(part[row, None] for part in parts)))


def assert_equal(found: Proposal, expected: Proposal) -> None:
    """Of one text: logits up to rounding, candidates exactly and without what only fills up."""
    if expected.logits is not None:
        assert found.logits is not None
        torch.testing.assert_close(found.logits, expected.logits, atol=CLOSE, rtol=CLOSE)
        return
    assert listed(found) == listed(expected)


def listed(proposal: Proposal) -> list[list[tuple[int, float]]]:
    """The candidates of each node of one text."""
    found = proposal.candidates
    assert found is not None
    nodes = zip(
        found.token_ids[0].tolist(),
        found.scores[0].tolist(),
        found.num_children[0].tolist(),
        strict=True,
    )
    return [list(zip(ids, scores, strict=True))[:count] for ids, scores, count in nodes]
