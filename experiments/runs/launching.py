"""Spreading work over processes and machines, by Lightning Fabric.

On one machine Fabric starts the processes; where `torchrun`, SLURM or another launcher has started
them already, it joins them.
"""

import logging
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException

from experiments.errors import argument

T = TypeVar("T")
LONGEST_WAIT = timedelta(weeks=4)
"""Of a process that is done for those that are not."""


class ProcessDied(Exception):
    """A process was killed from outside, by the system or by somebody."""


def make_fabric(device: str, processes: int, num_nodes: int) -> Fabric:
    """What starts `processes` processes on each of `num_nodes` machines, or finds them started.

    Args:
        device: of all; with several processes its kind alone, see `own_device`.
        processes: on each machine.
        num_nodes: machines.

    Raises:
        InputError: the launcher started another number.
    """
    for name in ("lightning.fabric", "lightning.pytorch"):  # greetings of each process
        logging.getLogger(name).setLevel(logging.WARNING)
    with argument("--processes and --num-nodes", f"{processes} x {num_nodes}"):
        fabric = _fabric(processes, num_nodes, "popen")
        environment = getattr(fabric.strategy, "cluster_environment", None)
        is_launched = environment is not None and environment.creates_processes_externally
        if processes == num_nodes == 1 and not is_launched:
            return Fabric(accelerator="cpu", devices=1)
        if ":" in device:
            raise ValueError(f"--device must be without a number, got {device!r}")
        if environment is None or not is_launched:
            return _fabric(processes, num_nodes, "spawn")
        environment.validate_settings(num_devices=processes, num_nodes=num_nodes)
        return fabric


def _fabric(processes: int, num_nodes: int, start_method: Any) -> Fabric:
    # The processes exchange nothing but a few objects, which are on the CPU wherever models are.
    strategy = DDPStrategy(
        start_method=start_method, process_group_backend="gloo", timeout=LONGEST_WAIT
    )
    return Fabric(accelerator="cpu", devices=processes, num_nodes=num_nodes, strategy=strategy)


def own_device(fabric: Fabric, device: str) -> str:
    """The device of this process: where there are several of the kind, they are taken in turn."""
    if fabric.world_size == 1 or device != "cuda":
        return device
    # A launcher may show each process its own device alone.
    return f"cuda:{fabric.local_rank % torch.cuda.device_count()}"


def launch(fabric: Fabric, work: Callable[[Fabric], T]) -> T:
    """Runs `work` in every process; returns what the first one returned.

    Args:
        fabric: of `make_fabric`.
        work: can be pickled; a `partial` for what it is to be told.

    Raises:
        ProcessDied: one of the processes was killed; the others are ended.
    """
    try:
        found: T = fabric.launch(work)
    except ProcessExitedException as error:
        raise ProcessDied(f"a process ended before its work was done: {error}") from error
    except BaseException:
        for child in multiprocessing.active_children():  # those that Fabric started
            child.terminate()
        raise
    return found


def gather(fabric: Fabric, value: T) -> list[T]:
    """What every process gave, by rank; waits for all of them."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    distributed.all_gather_object(values, value)
    return values
