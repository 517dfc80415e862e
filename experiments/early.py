"""Slips of the pen are found before anything heavy is imported."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.errors import argument

ROOT = re.compile(r"[A-Za-z_]\w*(?=\(|$)")
"""The name that a spec begins with; a path has none."""

SPECS = ("policies", "policy", "baseline")
"""Options that take specs of policies."""


def check(given: Mapping[str, Any]) -> None:
    """Refuses names and files that are not there, in the words that a run would use.

    Args:
        given: values of options, by their names in Python.

    Raises:
        InputError: one is not there.
    """
    for name in SPECS:
        value = given.get(name) or ()
        for spec in [value] if isinstance(value, str) else value:
            root = ROOT.match(spec.strip())
            if root is not None and not Path(spec).exists():
                from adaeagle.registry import lookup, names

                if root[0] not in names():
                    with argument(f"--{name}", spec):
                        lookup(root[0])
    prompts = given.get("prompts")
    if not isinstance(prompts, str) or given.get("prompt") is not None:
        return
    if prompts not in ("-", "random", "mini"):
        from adaeagle.data.prompts import prompt_file

        with argument("--prompts", prompts):
            prompt_file(prompts)
