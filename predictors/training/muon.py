"""AdamW that steps matrices along the orthogonalised momentum: about half the tokens for a loss.

Source: Muon, K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
Differs from `torch.optim.Muon`: the iteration is in float32 unless told otherwise (that one works
in bfloat16, which a CPU without bfloat16 units emulates at a twentieth of the speed), and one
optimiser for all parameters.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
MOMENTUM = 0.95


def orthogonalised(matrix: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Roughly U V^T of `matrix` = U S V^T, [M, N], by a quintic Newton-Schulz iteration.

    It is computed in `dtype`, and given back in the dtype of `matrix`.
    """
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = (x / (x.norm() + 1e-7)).to(dtype)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.T if is_tall else x).to(matrix.dtype)
    return result


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose parameter groups with `muon=True` hold matrices and take Muon's step instead.

    Such a group's `muon_dtype` is what the iteration computes in; without it float32.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; a matrix without a gradient stays as it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if not group.get("muon", False):
                continue
            for parameter in group["params"]:
                if parameter.grad is not None:
                    dtype = group.get("muon_dtype", torch.float32)
                    self._muon_step(parameter, group["lr"], group["weight_decay"], dtype)
                    parameter.grad = None  # so that AdamW leaves it alone
        super().step()
        return loss

    def _muon_step(
        self, parameter: Tensor, lr: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.tensor(0.0)  # AdamW's loading looks for it in every state
        momentum: Tensor = state["momentum"]
        momentum.lerp_(parameter.grad, 1 - MOMENTUM)
        update = orthogonalised(parameter.grad.lerp(momentum, MOMENTUM), dtype=dtype)
        rows, columns = parameter.shape
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(update, alpha=-lr * max(1.0, rows / columns) ** 0.5)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """AdamW, when it is restored, looks for a step count in every parameter's state."""
        for own in state["state"].values():
            own.setdefault("step", torch.zeros(()))
        super().__setstate__(state)  # type: ignore[no-untyped-call]
