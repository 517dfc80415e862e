"""The floors of the house: imports run downwards only, and the core loads nothing above it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("adaeagle", "predictors", "policies", "experiments")  # from the ground up


def imported(source: str) -> Iterator[str]:
    """Every package that a file imports, wherever in the file; also by name, through importlib."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value.split(".")[0]


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_run_downwards(floor: str) -> None:
    above = set(FLOORS[FLOORS.index(floor) + 1 :]) | {"tests"}
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    for file in files:
        found = above.intersection(imported(file.read_text(encoding="utf-8")))
        assert not found, f"{file.relative_to(ROOT)} imports {', '.join(sorted(found))}"


@pytest.mark.parametrize(
    "source",
    [
        "import policies",
        "import policies.chain as chain",
        "from policies.chain import Chain",
        "def f():\n    from policies import Chain",
        "import importlib\nimportlib.import_module('policies.chain')",
    ],
)
def test_what_counts_as_an_import(source: str) -> None:
    assert "policies" in set(imported(source))


def test_the_core_loads_nothing_above_it() -> None:
    above = (*FLOORS[1:], "pyarrow")  # Parquet is for traces alone
    code = f"import sys, adaeagle; print(*set({above}).intersection(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
