"""What the tables say of a text, and that it comes back from them."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from adaeagle.trace.envelope import Envelope
from adaeagle.trace.tables import NEEDED, feature_name, from_tables, to_tables
from adaeagle.trace.text import RecordedText


def features_of(texts: list[RecordedText]) -> dict[str, torch.Tensor]:
    return {
        feature_name(kind, text.prompt_id, text.turn): getattr(text, kind)
        for text in texts
        for kind in ("features", "draft_features")
        if getattr(text, kind) is not None
    }


def test_texts_come_back(
    make_text: Callable[..., RecordedText], assert_same_text: Callable[..., None]
) -> None:
    texts = [
        make_text("a"),
        make_text("a", 1, num_ranks=5, has_draft_features=True),
        make_text("b", num_new=1),  # no position to draft at
        make_text("c", num_new=2, dtype=torch.bfloat16),
    ]
    tables = to_tables(texts, "tune")
    needed = {
        name: tables[name].select(NEEDED.get(name, tables[name].column_names)) for name in tables
    }
    found = from_tables(needed, features_of(texts))
    assert len(found) == 4
    for one, other in zip(found, texts, strict=True):
        assert_same_text(one, other)


def test_texts_without_any_position(
    make_text: Callable[..., RecordedText], assert_same_text: Callable[..., None]
) -> None:
    text = make_text("a", num_new=1)
    [found] = from_tables(to_tables([text], "test"), features_of([text]))
    assert_same_text(found, text)
    assert found.envelope.num_positions == 0


def test_an_envelope_of_unequal_ranks_comes_back(make_text: Callable[..., RecordedText]) -> None:
    text = make_text("a")
    whole = text.envelope.num_nodes
    text.envelope.widen(4)
    text.envelope.add(
        torch.tensor([0]),
        torch.tensor([int(text.envelope.roots[0])]),
        torch.tensor([3]),
        torch.tensor([[1, 2, 3, 4]]),
        torch.tensor([[-1.0, -2.0, -3.0, -4.0]]),
        torch.tensor([0.5]),
    )
    [found] = from_tables(to_tables([text], "tune"), features_of([text]))
    assert found.envelope.is_ragged
    assert torch.equal(found.envelope.token_ids, text.envelope.token_ids)
    assert (found.envelope.log_probs[:whole, 3] == -math.inf).all()


@pytest.fixture
def by_hand() -> RecordedText:
    """Text 10 11 12 13. At position 0 the draft is 11 → 12 → 40 and 11 → 30; at 1 it is 20."""
    envelope = Envelope(3, 2)

    def add(position: int, parent: int, rank: int, *children: tuple[int, float]) -> int:
        ids, log_probs = zip(*children, strict=True)
        return int(
            envelope.add(
                torch.tensor([position]),
                torch.tensor([parent]),
                torch.tensor([rank]),
                torch.tensor([ids]),
                torch.tensor([log_probs]),
                torch.tensor([0.7]),
            )
        )

    roots = [
        add(0, -1, 0, (11, -0.5), (31, -1.5)),
        add(1, -1, 0, (20, -0.25), (12, -2.0)),
        add(2, -1, 0, (13, -0.125), (50, -3.0)),
    ]
    first = add(0, roots[0], 0, (12, -0.25), (30, -4.0))
    add(1, roots[1], 0, (13, -0.5), (14, -0.75))
    second = add(0, first, 0, (40, -0.1), (13, -5.0))
    add(0, first, 1, (13, -0.1), (12, -5.0))
    add(0, second, 1, (1, -0.1), (2, -5.0))
    add(2, roots[2], 0, (14, -0.1), (15, -5.0))
    zeros = torch.zeros(5, 2)
    return RecordedText(
        prompt_id="p",
        turn=3,
        category="kind",
        source="",
        prompt_ids=torch.tensor([7, 8]),
        token_ids=torch.tensor([10, 11, 12, 13]),
        limit=6,
        features=zeros,
        draft_features=None,
        top_token_ids=torch.tensor([[10, 1], [11, 2], [12, 3], [13, 4]]),
        top_log_probs=torch.tensor([[-0.1, -1.0]] * 4),
        envelope=envelope,
    )


def columns(table: Any, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_nodes_tell_their_paths(by_hand: RecordedText) -> None:
    table = to_tables([by_hand], "tune")["nodes"]
    assert columns(table, "position", "node", "parent", "depth", "token_id", "is_accepted") == [
        (0, 0, -1, 0, 10, True),
        (1, 1, -1, 0, 11, True),
        (2, 2, -1, 0, 12, True),
        (0, 3, 0, 1, 11, True),
        (1, 4, 1, 1, 20, False),
        (0, 5, 3, 2, 12, True),
        (0, 6, 3, 2, 30, False),
        (0, 7, 5, 3, 13, True),
        (2, 8, 2, 1, 13, True),
    ]
    log_probs = [0, 0, 0, -0.5, -0.25, -0.25, -4.0, -5.0, -0.125]
    assert table["log_prob"].to_pylist() == log_probs
    assert table["path_log_prob"].to_pylist() == [0, 0, 0, -0.5, -0.25, -0.75, -4.5, -5.75, -0.125]
    assert table["child_token_ids"].to_pylist()[5] == [40, 13]
    assert set(columns(table, "prompt_id", "turn")) == {("p", 3)}


def test_a_rejected_node_rejects_those_below(by_hand: RecordedText) -> None:
    """Below 20, which is wrong, stands 13, which the text has two places on."""
    envelope = by_hand.envelope
    wrong = int((envelope.positions == 1).nonzero()[-1])
    rows = torch.tensor([[1, 2]]), torch.tensor([[-1.0, -2.0]]), torch.tensor([0.1])
    envelope.add(torch.tensor([1]), torch.tensor([wrong]), torch.tensor([0]), *rows)
    nodes = to_tables([by_hand], "tune")["nodes"]
    assert columns(nodes, "token_id", "is_accepted")[-1] == (13, False)


def test_nothing_beyond_the_end_is_accepted(by_hand: RecordedText) -> None:
    """Position 2 may say 13; whatever follows is not in the text, even if it repeats its end."""
    envelope = by_hand.envelope
    envelope.token_ids[envelope.num_nodes - 1, 0] = 13
    rows = torch.tensor([[1, 2]]), torch.tensor([[-1.0, -2.0]]), torch.tensor([0.1])
    last = torch.tensor([envelope.num_nodes - 1])
    envelope.add(torch.tensor([2]), last, torch.tensor([0]), *rows)
    nodes = to_tables([by_hand], "tune")["nodes"]
    assert columns(nodes, "depth", "token_id", "is_accepted")[-1] == (2, 13, False)


def test_tokens_tell_what_a_draft_must_say(by_hand: RecordedText) -> None:
    tables = to_tables([by_hand], "tune")
    assert columns(tables["tokens"], "position", "token_id") == [
        (-1, 10),
        (0, 11),
        (1, 12),
        (2, 13),
    ]
    assert tables["tokens"]["top_token_ids"].to_pylist()[2] == [12, 3]
    [row] = tables["texts"].to_pylist()
    assert row == {
        "prompt_id": "p",
        "turn": 3,
        "category": "kind",
        "source": "",
        "split": "tune",
        "prompt_ids": [7, 8],
        "token_ids": [10, 11, 12, 13],
        "limit": 6,
        "num_positions": 3,
        "num_nodes": 9,
        "num_ranks": 2,
    }
