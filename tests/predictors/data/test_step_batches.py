"""Batches depend on the step alone."""

import pytest

from predictors.data.step_batches import StepBatches


def test_a_resumed_run_reads_on_where_it_stopped() -> None:
    whole = list(StepBatches(7, 3, 6, seed=5))
    resumed = list(StepBatches(7, 3, 6, seed=5, start_step=2))
    assert resumed == whole[2:]
    assert len(StepBatches(7, 3, 6, start_step=2)) == 6


def test_every_pass_holds_every_item_once() -> None:
    indices = [index for batch in StepBatches(7, 2, 7, seed=1) for index in batch]
    assert sorted(indices[:7]) == sorted(indices[7:]) == list(range(7))
    assert indices[:7] != indices[7:]


def test_processes_share_the_order_of_one() -> None:
    alone = list(StepBatches(10, 4, 5, seed=2))
    parts = [list(StepBatches(10, 2, 5, seed=2, rank=rank, world_size=2)) for rank in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == alone


@pytest.mark.parametrize("name", ["num_items", "batch_size"])
def test_sizes_must_be_positive(name: str) -> None:
    sizes = {"num_items": 3, "batch_size": 3} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        StepBatches(**sizes, max_steps=1)
