"""Broken gradients are left out; a run that only has those ends."""

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from predictors.training.callbacks import SkipNonFiniteSteps


class _Line(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        return (self.weight * batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)


def _fit(inputs: list[float], callback: SkipNonFiniteSteps, folder: Path) -> _Line:
    module = _Line()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        gradient_clip_val=1.0,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.tensor(inputs)), batch_size=1))
    return module


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_a_nan_gradient_changes_nothing(tmp_path: Path) -> None:
    callback = SkipNonFiniteSteps()
    module = _fit([1.0, float("nan"), 1.0], callback, tmp_path)
    without = _fit([1.0, 1.0], SkipNonFiniteSteps(), tmp_path)
    assert callback.num_skipped == 1
    assert torch.equal(module.weight, without.weight)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_nan_for_ever_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"max_in_a_row=2 .* got 3"):
        _fit([float("nan")] * 5, SkipNonFiniteSteps(max_in_a_row=2), tmp_path)


def test_max_in_a_row_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_in_a_row must be >= 1, got 0"):
        SkipNonFiniteSteps(0)
