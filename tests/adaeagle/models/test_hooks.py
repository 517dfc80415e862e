"""Whoever has a say in a module is seen."""

from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from adaeagle.models import hooks as module_watch
from adaeagle.models.hooks import HookWatch


@pytest.fixture
def module() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))


@pytest.fixture
def watch(module: nn.Sequential) -> HookWatch:
    return HookWatch([module, *module])


def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Does nothing."""


def test_hooks_come_and_go(module: nn.Sequential, watch: HookWatch) -> None:
    assert watch.is_quiet()
    registers: tuple[Any, ...] = (
        module.register_forward_hook,
        module[0].register_forward_pre_hook,
        register_module_forward_hook,
    )
    for register in registers:
        handle = register(hook)
        assert not watch.is_quiet()
        handle.remove()
        assert watch.is_quiet()


def test_hooks_of_the_models_own_forward_are_idle(
    module: nn.Sequential, watch: HookWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_watch, "IDLE_HOOKS", hook.__module__)
    module[1].register_forward_hook(hook)
    assert watch.is_quiet()
    assert watch.is_quiet()
    another = lambda *_: None  # noqa: E731
    another.__module__ = "elsewhere"
    module[1].register_forward_hook(another)
    assert not watch.is_quiet()


def test_another_forward(module: nn.Sequential, watch: HookWatch) -> None:
    module[1].forward = lambda x: x
    assert not watch.is_quiet()
    del module[1].forward
    assert watch.is_quiet()


def test_another_module_or_none(module: nn.Sequential, watch: HookWatch) -> None:
    before = module[1]
    module[1] = nn.Linear(3, 2)
    assert not watch.is_quiet()
    module[1] = before
    assert watch.is_quiet()
    del module[1]
    assert not watch.is_quiet()
