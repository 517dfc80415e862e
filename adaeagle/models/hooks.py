"""Whether modules are called as their classes say: no hook, no other forward, nothing replaced.

What computes a model's layers from their weights leaves their modules out, and with them whatever
other libraries hang on modules: hooks, adapters, offloading.
"""

from collections.abc import Sequence
from itertools import repeat

from torch import nn
from torch.nn.modules import module as nn_module

IDLE_HOOKS = "transformers.utils.output_capturing"
"""Where those hooks come from that do nothing outside of the model's own forward."""


class HookWatch:
    """Looks at modules and at what they hold.

    Args:
        modules: all that are left out, the outer ones too.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._hooks = [
            hooks
            for module in modules
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]
        self._num_hooks: list[int] = []
        self._modules = list(modules)
        places = [(module._modules, name) for module in modules for name in module._modules]
        self._owners = [members for members, _ in places]
        self._names = [name for _, name in places]
        self._members = [members[name] for members, name in places]

    def is_quiet(self) -> bool:
        """Whether there is no hook, no other forward and no other module in any place.

        Asked at every forward, of a hundred modules and more: hence no loops in Python.
        """
        return (
            self._has_idle_hooks()
            and not any(map(dict.__contains__, map(vars, self._modules), repeat("forward")))
            and list(map(dict.get, self._owners, self._names)) == self._members
            and not nn_module._has_any_global_hook()  # type: ignore[no-untyped-call]
        )

    def _has_idle_hooks(self) -> bool:
        """Whether there are none but those of `transformers`."""
        num_hooks = list(map(len, self._hooks))
        if num_hooks != self._num_hooks:
            every = (hook for hooks in self._hooks for hook in hooks.values())
            if any(getattr(hook, "__module__", None) != IDLE_HOOKS for hook in every):
                return False
            self._num_hooks = num_hooks
        return True
