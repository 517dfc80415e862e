"""The benchmark of kernels on the bundled model: what it measures; ratios are of one turn."""

import pytest

from experiments.benchmarks.kernels import MODES, ROWS, run


def test_every_forward_of_both_kernels_is_measured() -> None:
    result = run("mini", "mini", context=12, num_turns=3)
    expected = {f"{mode}, {rows} rows" for mode in MODES for rows in ROWS}
    assert set(result["ms"]) == expected | {f"{mode}, head" for mode in MODES}
    assert all(least > 0 for least in result["least_ms"].values())
    assert result["ratios"]["auto: 4 rows over a plain step"]["n"] == 3
    assert "torch over auto: head" in result["ratios"]


def test_without_a_head_there_are_no_ratios_of_one() -> None:
    result = run("mini", None, context=5, num_turns=1)
    assert not [pair for pair in result["ratios"] if "head" in pair]
    with pytest.raises(KeyError):
        result["ms"]["auto, head"]
