"""Spreading work over processes and machines, by Lightning Fabric.

On one machine Fabric starts the processes; where `torchrun`, SLURM or another launcher has started
them already, it joins them.
"""

import logging
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException

from experiments.commands.failure import argument

T = TypeVar("T")
LONGEST_WAIT = timedelta(weeks=4)
"""Of a process that is done for those that are not."""


class ProcessDied(Exception):
    """A process was killed from outside, by the system or by somebody."""


def make_fabric(device: str, processes: int, num_nodes: int) -> Fabric:
    """What starts `processes` processes on each of `num_nodes` machines, or finds them started.

    Args:
        device: of all; with several processes its kind alone, since each takes one of its own.
        processes: on each machine.
        num_nodes: machines.

    Raises:
        InputError: there are not so many devices, or the launcher started another number.
    """
    for name in ("lightning.fabric", "lightning.pytorch"):  # greetings of each process
        logging.getLogger(name).setLevel(logging.WARNING)
    kind, _, index = device.partition(":")
    given = f"{processes} x {num_nodes} on {device}"
    with argument("--processes and --num-nodes", given):
        fabric = _fabric(kind, processes, num_nodes, "popen")
        environment = getattr(fabric.strategy, "cluster_environment", None)
        is_launched = environment is not None and environment.creates_processes_externally
        if processes == num_nodes == 1 and not is_launched:
            return Fabric(accelerator="cpu")  # starts nothing, touches no device
        if index:
            raise ValueError(f"--device must be {kind} for several processes, got {device!r}")
        return fabric if is_launched else _fabric(kind, processes, num_nodes, "spawn")


def _fabric(kind: str, processes: int, num_nodes: int, start_method: Any) -> Fabric:
    # Nothing but a few objects is exchanged: gloo is enough on any device.
    strategy = DDPStrategy(
        start_method=start_method, process_group_backend="gloo", timeout=LONGEST_WAIT
    )
    return Fabric(accelerator=kind, devices=processes, num_nodes=num_nodes, strategy=strategy)


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
