"""Which device a process takes, and which numbers of processes are refused."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from experiments.errors import InputError
from experiments.runs.launching import gather, launch, make_fabric, own_device


def test_alone_nothing_is_started() -> None:
    fabric = make_fabric("cuda:1", 1, 1)
    assert (fabric.world_size, fabric.is_global_zero) == (1, True)
    assert launch(fabric, lambda found: (found is fabric, gather(found, "alone"))) == (
        True,
        ["alone"],
    )


@pytest.mark.parametrize(
    ("world_size", "local_rank", "device", "num_visible", "expected"),
    [
        (1, 0, "cuda:1", 4, "cuda:1"),
        (1, 0, "cuda", 4, "cuda"),
        (4, 3, "cuda", 4, "cuda:3"),
        (4, 3, "cuda", 1, "cuda:0"),  # each process sees its own alone
        (4, 3, "cpu", 0, "cpu"),
    ],
)
def test_devices_are_taken_in_turn(
    monkeypatch: pytest.MonkeyPatch,
    world_size: int,
    local_rank: int,
    device: str,
    num_visible: int,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_visible)
    fabric = cast(Any, SimpleNamespace(world_size=world_size, local_rank=local_rank))
    assert own_device(fabric, device) == expected


def test_several_processes_on_one_device_are_refused() -> None:
    with pytest.raises(InputError, match=r"--device must be without a number, got 'cuda:1'"):
        make_fabric("cuda:1", 2, 1)


def test_another_number_than_was_launched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two were started, as `torchrun` says in the environment."""
    launched = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "GROUP_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "none",
    }
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert make_fabric("cpu", 2, 1).world_size == 2
    for processes, num_nodes in ((1, 1), (3, 1), (2, 2)):
        with pytest.raises(InputError, match=f"num-nodes '{processes} x {num_nodes}'"):
            make_fabric("cpu", processes, num_nodes)
