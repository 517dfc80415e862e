"""How much of a text's time is spent inside the two models."""

import time
from types import TracebackType
from typing import Any

import torch
from torch import nn

from adaeagle import EagleDrafter, ModelDrafter, Target
from adaeagle.drafters.base import Drafter


class ForwardTimer:
    """Sums the seconds of every forward of target and drafter, output heads included.

    On CUDA it waits for the device around every forward, which makes the whole slower and the share
    of the host larger than it is; there, compare with the rounds of an unmeasured run.
    """

    def __init__(self, target: Target, drafter: Drafter | None) -> None:
        self._modules: list[nn.Module] = [target.body, _output_head(target)]
        if isinstance(drafter, EagleDrafter):
            self._modules.append(drafter.head)
        elif isinstance(drafter, ModelDrafter):
            self._modules += [drafter.model.body, _output_head(drafter.model)]
        self._handles: list[Any] = []
        self._start = 0.0
        self._seconds = 0.0

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def __enter__(self) -> "ForwardTimer":
        for module in self._modules:
            self._handles.append(module.register_forward_pre_hook(self._begin))
            self._handles.append(module.register_forward_hook(self._end))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: nn.Module, arguments: Any) -> None:
        _wait()
        self._start = time.perf_counter()

    def _end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        _wait()
        self._seconds += time.perf_counter() - self._start


def _output_head(target: Target) -> nn.Module:
    head = target.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(head, nn.Module)
    return head


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
