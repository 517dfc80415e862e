"""Batches by step number, so that a resumed run reads on exactly where it was killed."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from adaeagle.ranges import at_least


@dataclass(frozen=True)
class StepBatches(Sampler[list[int]]):
    """One batch of indices an optimiser step, over as many shuffled passes as it takes.

    Args:
        num_items: size of the data set.
        batch_size: indices a process and step.
        max_steps: steps of the whole run.
        start_step: steps already done.
        seed: of the order.
        rank: of this process among `world_size`.
        world_size: processes, each with its own part of a step's indices.
    """

    num_items: int
    batch_size: int
    max_steps: int
    _: KW_ONLY
    start_step: int = 0
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        at_least(1, num_items=self.num_items, batch_size=self.batch_size)

    def __len__(self) -> int:
        """Steps of the whole run: a resumed trainer counts those done as fetched."""
        return self.max_steps

    def __iter__(self) -> Iterator[list[int]]:
        number, order = -1, torch.empty(0, dtype=torch.int64)
        for step in range(self.start_step, self.max_steps):
            first = (step * self.world_size + self.rank) * self.batch_size
            batch = []
            for place in range(first, first + self.batch_size):
                if place // self.num_items != number:
                    number = place // self.num_items
                    order = self._pass(number)
                batch.append(int(order[place % self.num_items]))
            yield batch

    def _pass(self, number: int) -> torch.Tensor:
        """The order of one pass over the data."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return torch.randperm(self.num_items, generator=generator)


class StepData(L.LightningDataModule):
    """Batches by step number for training and in order for validation.

    Args:
        training: a data set with a length.
        validation: likewise.
        batch_size: items a process and step.
        max_steps: steps of the whole run.
        seed: of the order.
        collate: makes a batch of items; None: stacks tensors.
    """

    def __init__(
        self,
        training: Dataset[Any],
        validation: Dataset[Any],
        *,
        batch_size: int,
        max_steps: int,
        seed: int = 0,
        collate: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        self.training = training
        self.validation = validation
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.seed = seed
        self.collate = collate
        self._start_step = 0

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        batches = StepBatches(
            len(self.training),  # type: ignore[arg-type]  # Dataset does not promise a length
            self.batch_size,
            self.max_steps,
            start_step=self._start_step,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return DataLoader(self.training, batch_sampler=batches, collate_fn=self.collate)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.validation, self.batch_size, collate_fn=self.collate)

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {"step": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start_step = state_dict["step"]
