"""What texts side by side cost, by tables of some numbers of texts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaeagle.cost.batches import side_by_side
from adaeagle.cost.model import CostModel, RoundShapes

ONE = CostModel.linear(constant=1.0, draft=2.0, verify=10.0, node=0.5)
FOUR = CostModel.linear(constant=3.0, draft=4.0, verify=16.0, node=1.5)
MEASURED = replace(ONE, batches={4: FOUR})


def seconds(cost: CostModel, nodes: int, widths: tuple[int, ...] = ()) -> float:
    shapes = RoundShapes(
        torch.tensor([100]),
        torch.tensor([widths], dtype=torch.int64).view(1, -1),
        torch.tensor([nodes]),
        torch.tensor([False]),
    )
    return float(cost.round_seconds(shapes))


def test_a_measured_number_is_its_own_table() -> None:
    assert side_by_side(MEASURED, 1) is MEASURED
    assert side_by_side(MEASURED, 4) is FOUR


@pytest.mark.parametrize(("num_texts", "share"), [(2, 1 / 3), (3, 2 / 3), (7, 2.0)])
def test_between_and_beyond(num_texts: int, share: float) -> None:
    for nodes, widths in ((0, ()), (1, (1,)), (9, (1, 1, 1))):
        one, four = seconds(ONE, nodes, widths), seconds(FOUR, nodes, widths)
        found = seconds(side_by_side(MEASURED, num_texts), nodes, widths)
        assert found == pytest.approx(one + share * (four - one))


def test_unmeasured_texts_cost_a_node_each() -> None:
    for nodes in (0, 1, 6):
        assert seconds(side_by_side(ONE, 5), nodes) == seconds(ONE, nodes + 4)


def test_files_keep_them(tmp_path: Path) -> None:
    MEASURED.save(tmp_path / "cost.json")
    loaded = CostModel.load(tmp_path / "cost.json")
    assert seconds(loaded.batches[4], 7, (1,)) == seconds(FOUR, 7, (1,))
