"""What a round costs, told from its shape."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle.cost.model import VERSION, CostModel, Parts, RoundShapes
from adaeagle.cost.table import Table

LINEAR = CostModel.linear(
    constant=0.5, draft=1.0, verify=10.0, node=0.25, width=0.125, prefill=0.01
)


def shapes(*rounds: tuple[int, list[int], int, bool]) -> RoundShapes:
    """Of context, widths, nodes and whether it is a tree."""
    longest = max(len(widths) for _, widths, _, _ in rounds)
    widths = [found + [0] * (longest - len(found)) for _, found, _, _ in rounds]
    return RoundShapes(
        torch.tensor([context for context, *_ in rounds]),
        torch.tensor(widths, dtype=torch.int64).view(len(rounds), longest),
        torch.tensor([nodes for _, _, nodes, _ in rounds]),
        torch.tensor([is_tree for *_, is_tree in rounds]),
    )


def test_a_linear_machine() -> None:
    some = shapes((7, [], 0, False), (900, [1, 1, 1], 3, False), (64, [1, 10, 10], 59, True))
    assert LINEAR.draft_seconds(some).tolist() == [0.0, 3.0, 1.0 + 2 * (1 + 9 * 0.125)]
    assert LINEAR.verify_seconds(some).tolist() == [10.0, 10.75, 10 + 59 * 0.25]
    assert LINEAR.other_seconds(some).tolist() == [0.5] * 3
    assert LINEAR.round_seconds(some).tolist() == [10.5, 14.25, 5.25 + 24.75 + 0.5]
    assert LINEAR.prefill_seconds(torch.tensor([0, 100])).tolist() == [0.0, pytest.approx(1.0)]
    assert LINEAR.draft_prefill_seconds(torch.tensor([5])).tolist() == [1.0]


def test_rounds_without_a_draft_are_plain_steps() -> None:
    """Whatever kind they are called, and however many columns stand empty beside them."""
    for is_tree in (False, True):
        plain = shapes((80, [], 0, is_tree))
        padded = shapes((80, [], 0, is_tree), (80, [1, 1], 2, False))
        assert plain.widths.shape == (1, 0)
        assert MODEL.draft_seconds(plain).tolist() == [0.0]
        assert MODEL.draft_seconds(padded)[0] == 0.0
        for seconds in (MODEL.verify_seconds, MODEL.round_seconds):
            assert seconds(plain)[0] == seconds(padded)[0]
    assert MODEL.verify_seconds(shapes((80, [], 0, False))) == MODEL.chain.verify.at(
        torch.tensor(0), torch.tensor(80)
    )


def random_table(sizes: list[int], contexts: list[int], seed: int) -> Table:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(len(sizes), len(contexts), generator=generator, dtype=torch.float64)
    quartiles = (0.9 * values, values, 1.1 * values)
    count = torch.full(values.shape, 15)
    return Table(torch.tensor(sizes), torch.tensor(contexts), *quartiles, count)


def random_parts(sizes: list[int], nodes: list[int], seed: int) -> Parts:
    contexts = [64, 200, 900]
    return Parts(
        first=random_table([1, 2], contexts, seed),
        second=random_table(sizes, contexts, seed + 4),
        next=random_table(sizes, contexts, seed + 1),
        verify=random_table(nodes, contexts, seed + 2),
        other=random_table(nodes, contexts, seed + 3),
    )


MODEL = CostModel(
    chain=random_parts([1], [0, 1, 2, 8], 0),
    tree=random_parts([1, 4, 10], [0, 4, 60], 10),
    prefill=random_table([0], [16, 900], 20),
    draft_prefill=random_table([0], [16, 900], 21),
    about={"target": "none", "threads": 1},
)


def random_shapes(num_rounds: int, seed: int) -> RoundShapes:
    draws = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=draws)

    is_tree = integers(2, num_rounds).bool()
    widths = torch.where(is_tree.unsqueeze(1), 1 + integers(14, num_rounds, 9), 1)
    widths[:, 0] = 1
    widths *= torch.arange(9) < integers(10, num_rounds).unsqueeze(1)
    contexts, nodes, caught_up = (integers(most, num_rounds) for most in (1500, 90, 9))
    return RoundShapes(contexts, widths, nodes, is_tree, 1 + caught_up)


def one_by_one(model: CostModel, some: RoundShapes, row: int) -> tuple[float, float, float]:
    """Draft, verification and the rest of one round, a forward at a time."""
    parts = model.tree if some.is_tree[row] else model.chain
    context = some.contexts[row]
    draft = 0.0
    assert some.caught_up is not None
    for place, width in enumerate(some.widths[row].tolist()):
        if width:
            table = (parts.first, parts.second, parts.next)[min(place, 2)]
            size = width if place else min(2, int(some.caught_up[row]))
            draft += float(table.at(torch.tensor(size), context))
    verify, other = (float(t.at(some.nodes[row], context)) for t in (parts.verify, parts.other))
    return draft, verify, other


def test_several_tokens_taken_in_are_not_one() -> None:
    some = shapes((80, [1, 1], 2, False), (80, [1, 1], 2, False))
    one, several = MODEL.draft_seconds(replace(some, caught_up=torch.tensor([1, 7]))).tolist()
    first = MODEL.chain.first.median[:, 0]
    slope = (80 - 64) / (200 - 64)
    between = first + slope * (MODEL.chain.first.median[:, 1] - first)
    assert several - one == pytest.approx(float(between[1] - between[0]))
    assert MODEL.draft_seconds(some).tolist() == [several, several]


def test_early_tables_are_read() -> None:
    raw = MODEL.to_json()
    for kind in ("chain", "tree"):
        del raw[kind]["second"]
    early = CostModel.from_json(raw)
    assert torch.equal(early.tree.second.median, MODEL.tree.next.median)


def test_many_rounds_equal_single_ones() -> None:
    some = random_shapes(300, 1)
    found = (MODEL.draft_seconds(some), MODEL.verify_seconds(some), MODEL.other_seconds(some))
    for row in range(300):
        draft, verify, other = one_by_one(MODEL, some, row)
        assert [float(part[row]) for part in found] == pytest.approx([draft, verify, other])
    assert torch.allclose(MODEL.round_seconds(some), found[0] + found[1] + found[2])


def test_rows_keep_rounds_whole() -> None:
    some = random_shapes(50, 2)
    chosen = torch.tensor([7, 3, 3])
    assert torch.equal(MODEL.round_seconds(some.rows(chosen)), MODEL.round_seconds(some)[chosen])


def test_shapes_must_agree() -> None:
    ones = torch.ones(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"nodes must be 1-dimensional with 3 rounds.*\(2,\)"):
        RoundShapes(ones, ones.view(3, 1), ones[:2], ones.bool())
    with pytest.raises(ValueError, match="widths must be 2-dimensional"):
        RoundShapes(ones, ones, ones, ones.bool())


def test_a_saved_model_is_the_same(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "cost.json")
    again = CostModel.load(str(tmp_path / "cost.json"))
    assert again.about == MODEL.about
    assert again.to_json() == MODEL.to_json()
    some = random_shapes(100, 3)
    assert torch.equal(again.round_seconds(some), MODEL.round_seconds(some))


def without(raw: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name != key}


RAW = MODEL.to_json()
BROKEN = [
    ("", "no cost table: Expecting value"),
    ("\x00\x01", "no cost table"),
    ("[1, 2]", "it must say 'format'"),
    ('{"arms": []}', "it must say 'format': 'adaeagle cost table'"),
    (RAW | {"version": VERSION + 1}, f"its version must be {VERSION}, got {VERSION + 1}"),
    (without(RAW, "version"), "its version must be 1, got None"),
    (without(RAW, "tree"), "its tables must be whole, got KeyError"),
    (RAW | {"prefill": []}, "its tables must be whole, got TypeError"),
    (RAW | {"prefill": without(RAW["prefill"], "count")}, "KeyError\\('count'\\)"),
    (RAW | {"prefill": RAW["prefill"] | {"median": [["a", "b"]]}}, "must be whole|too many"),
    (RAW | {"prefill": RAW["prefill"] | {"median": [[1.0]]}}, "median must have shape"),
    (RAW | {"prefill": RAW["prefill"] | {"median": [[1.0, -1.0]]}}, "must be finite and >= 0"),
]


@pytest.mark.parametrize(("content", "reason"), BROKEN)
def test_other_files_are_refused(tmp_path: Path, content: Any, reason: str) -> None:
    path = tmp_path / "cost.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(
        ValueError, match=f"{path} holds no cost table: .*({reason[-25:]})|{reason}"
    ):
        CostModel.load(path)


def test_binary_files_and_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="holds no cost table"):
        CostModel.load(tmp_path / "weights")
    with pytest.raises(FileNotFoundError):
        CostModel.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["constant", "draft", "verify", "node", "width", "prefill"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_machine_cannot_be_faster_than_nothing(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        CostModel.linear(**{"constant": 0.0, "draft": 0.0, "verify": 0.0} | {name: value})


def test_a_table_of_one_context() -> None:
    """Any context costs what that one does."""
    parts = Parts(
        **{
            part: Table.of({(size, 70): [0.1 * size + 1.0] for size in (0, 1, 4)})
            for part in Parts.__slots__
        }
    )
    one = replace(LINEAR, chain=parts)
    near, far = shapes((1, [1, 1], 2, False)), shapes((5000, [1, 1], 2, False))
    assert one.round_seconds(near) == one.round_seconds(far)
    assert float(one.round_seconds(near)) == pytest.approx(1.2 + 1.1 + 1.2 + 1.2)
