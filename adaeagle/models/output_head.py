"""From features to logits: the model's output head, and what its family puts after it.

Families scale logits (Cohere, Granite, HyperCLOVA X) or cap them softly (Gemma 2). One config name
stands for a factor in one family and for a divisor in another, so the form is not looked up: it is
the one that reproduces the model's own logits.

Shapes: D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from adaeagle.models.kernels import Mode, OneProduct

FACTORS = ("logit_scale", "logits_scaling", "output_multiplier")
DIVISORS = ("logits_scaling",)
SOFT_CAPS = ("final_logit_softcapping",)


@dataclass(frozen=True, slots=True)
class OutputHead:
    """cap * tanh(linear(features) * factor / divisor / cap), each part where there is one."""

    linear: Callable[[Tensor], Tensor]
    factor: float | None = None
    divisor: float | None = None
    soft_cap: float | None = None

    def __call__(self, features: Tensor) -> Tensor:
        """[..., D] → [..., V]."""
        logits: Tensor = self.linear(features)
        if self.factor is not None:
            logits = logits * self.factor
        if self.divisor is not None:
            logits = logits / self.divisor
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits

    def packed(self, mode: Mode) -> "OutputHead":
        """The same head with the kernel that `mode` chooses."""
        if type(self.linear) is not nn.Linear or mode == "torch":
            return self
        product = OneProduct(self.linear)
        product.pack(mode)
        return replace(self, linear=product)

    def cut_to(self, token_ids: Tensor) -> "OutputHead":
        """The same head for some tokens alone: [..., D] → [..., W], with a copy of their weights.

        Args:
            token_ids: [W] int64, the target's ids.

        Raises:
            TypeError: the layer is no plain linear one, such as a quantised one.
        """
        linear = self.linear
        if type(linear) is not nn.Linear:
            raise TypeError(
                f"a draft vocabulary needs a plain output layer, got {type(linear).__name__}"
            )
        ids = token_ids.to(linear.weight.device)
        with torch.device("meta"):
            cut = nn.Linear(linear.in_features, len(ids), bias=linear.bias is not None)
        cut.weight = nn.Parameter(linear.weight.detach()[ids], requires_grad=False)
        if linear.bias is not None:
            cut.bias = nn.Parameter(linear.bias.detach()[ids], requires_grad=False)
        return replace(self, linear=cut)


def forms(linear: nn.Module, config: Any) -> Iterator[OutputHead]:
    """Every form that a config's numbers allow, the fullest first and the bare head last."""
    for soft_cap in (*_numbers(config, SOFT_CAPS), None):
        for factor in _numbers(config, FACTORS):
            yield OutputHead(linear, factor=factor, soft_cap=soft_cap)
        for divisor in _numbers(config, DIVISORS):
            yield OutputHead(linear, divisor=divisor, soft_cap=soft_cap)
        yield OutputHead(linear, soft_cap=soft_cap)


def _numbers(config: Any, names: tuple[str, ...]) -> list[float]:
    found = (getattr(config, name, None) for name in names)
    return [number for number in found if isinstance(number, int | float) and number != 1]
