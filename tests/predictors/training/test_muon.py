"""Muon's step, and a run that is killed and goes on."""

import torch
from torch import Tensor, nn

from predictors.training.muon import MuonAdamW, orthogonalised


def test_orthogonalised_brings_singular_values_near_one() -> None:
    for shape in ((16, 24), (24, 16)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalised(matrix))
        assert float(values.min()) > 0.5
        assert float(values.max()) < 1.5


def _model() -> tuple[nn.Linear, MuonAdamW]:
    torch.manual_seed(0)
    model = nn.Linear(6, 6)
    groups = [
        {"params": [model.weight], "lr": 0.02, "muon": True},
        {"params": [model.bias], "lr": 0.01},
    ]
    return model, MuonAdamW(groups, betas=(0.9, 0.95))


def _steps(model: nn.Linear, optimizer: MuonAdamW, inputs: list[Tensor]) -> None:
    for x in inputs:
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_restored_optimizer_goes_on_alike() -> None:
    inputs = list(torch.randn(6, 4, 6, generator=torch.Generator().manual_seed(1)))
    whole, optimizer = _model()
    _steps(whole, optimizer, inputs)
    killed, optimizer = _model()
    _steps(killed, optimizer, inputs[:3])
    state = optimizer.state_dict()
    resumed, optimizer = _model()
    resumed.load_state_dict(killed.state_dict())
    optimizer.load_state_dict(state)
    _steps(resumed, optimizer, inputs[3:])
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)


def test_a_matrix_without_a_gradient_stays() -> None:
    model, optimizer = _model()
    before = model.weight.clone()
    model.bias.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert torch.equal(model.weight, before)
