"""A cost table says whether it can be relied on."""

from dataclasses import replace

import pytest
import torch

from adaeagle.cost.model import CostModel, Parts
from adaeagle.cost.quality import Quality
from adaeagle.cost.table import Table


def model(noise: float = 0.0, fall: float = 0.0, factor: float = 1.0) -> CostModel:
    """A made-up machine whose samples scatter by `noise` and whose largest verification is quicker.

    Verification of 8 nodes takes `fall` less than of 4.
    """
    median = factor * torch.tensor([[1.0], [2.0], [2.0 * (1 - fall)]], dtype=torch.float64)
    sizes, contexts, count = torch.tensor([1, 4, 8]), torch.tensor([0]), torch.tensor([[9]] * 3)
    half = median * noise / 2
    table = Table(sizes, contexts, median - half, median, median + half, count)
    parts = Parts(table, table, table, table, table)
    return replace(CostModel.linear(constant=0, draft=1, verify=1), chain=parts, tree=parts)


def test_a_steady_table_is_good() -> None:
    found = Quality.of(model(0.1, 0.02), [model(), model(factor=1.02)])
    assert found.is_good
    assert found.why == "two halves of its samples differ by 2.0%"


@pytest.mark.parametrize(
    ("whole", "halves", "why"),
    [
        (model(), [model(), model(factor=1.3)], "two halves of its samples differ by 26%"),
        (model(noise=0.5), [model(), model()], "spread over 50% of their median"),
        (model(fall=0.4), [model(), model()], "more work takes up to 40% less time"),
        (model(), [model()], "too few samples"),
    ],
)
def test_what_is_wrong_is_said(whole: CostModel, halves: list[CostModel], why: str) -> None:
    found = Quality.of(whole, halves)
    assert not found.is_good
    assert why in found.why


def test_the_table_of_other_models_is_refused() -> None:
    config = {"target": "a", "drafter": "b", "target_weights": "01", "drafter_weights": "02"}
    cost = replace(model(), about={"config": config})
    cost.check("01", "02")
    cost.check("01", None)  # a look-up has no weights
    model().check("03", "04")  # a made-up machine fits all
    for weights, kind in ((("03", "02"), "target"), (("01", "03"), "drafter")):
        with pytest.raises(ValueError, match=f"its {kind} must have the weights .*'a' with 'b'"):
            cost.check(*weights)
