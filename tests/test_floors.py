"""The floors of the house: imports run downwards only, and the core loads nothing above it."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("adaeagle", "predictors", "policies", "experiments")  # from the ground up
CORE = (  # the folders of `adaeagle` from the ground up; "" are its contracts, files of their own
    "data",
    "",
    "models",
    "drafters",
    "decoding",
    "cost",
    "trace",
    "replay",
    "bench",
    "testing",
)
EXPERIMENTS = (  # the folders of `experiments` from the ground up; one line is one floor
    ("recorded", "errors"),
    ("views",),
    ("runs",),
    ("report",),
    ("sweep",),
    ("confirm",),
    ("study",),
    ("commands", "benchmarks", "mini"),
    ("smollm2",),
    ("cli",),
)


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


def core_modules() -> dict[str, str]:
    """The source of every module of the core by its dotted name; the facade imports them all."""
    sources = modules_of("adaeagle")
    del sources["adaeagle"]
    return sources


def modules_of(package: str) -> dict[str, str]:
    """The source of every module of a package by its dotted name."""
    files = sorted((ROOT / package).rglob("*.py"))
    sources = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }
    return {name: file.read_text(encoding="utf-8") for name, file in sources.items()}


def uses(source: str, known: Iterable[str]) -> set[str]:
    """Which of the known modules a file imports, wherever in the file, also for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found.intersection(known)


def core_floor(module: str) -> int:
    folder = module.split(".")[1]
    return CORE.index(folder) if folder in CORE else CORE.index("")


def test_inside_the_core_imports_run_downwards() -> None:
    modules = core_modules()
    for module, source in modules.items():
        for used in uses(source, modules):
            assert core_floor(used) <= core_floor(module), f"{module} imports {used}"


def test_inside_experiments_imports_run_downwards() -> None:
    floors = {folder: place for place, floor in enumerate(EXPERIMENTS) for folder in floor}
    modules = modules_of("experiments")
    del modules["experiments"]
    for module, source in modules.items():
        folder = module.split(".")[1]
        for used in uses(source, modules):
            below = used.split(".")[1]
            allowed = below == folder or floors[below] < floors[folder]
            assert allowed, f"{module} imports {used}"


def test_runs_do_not_print() -> None:
    for module, source in modules_of("experiments").items():
        if module.startswith(
            (
                "experiments.runs",
                "experiments.sweep",
                "experiments.confirm",
                "experiments.study",
                "experiments.report",
                "experiments.views",
            )
        ):
            calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
            names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
            assert not names & {"print", "redirect_stdout"}, module


def test_no_module_of_the_core_imports_itself_in_the_end() -> None:
    modules = core_modules()
    known = {module: uses(source, modules) for module, source in modules.items()}
    while leaves := [module for module, used in known.items() if not used]:
        for leaf in leaves:
            del known[leaf]
        known = {module: used.difference(leaves) for module, used in known.items()}
    assert not known, f"import circles among {', '.join(sorted(known))}"


def test_what_counts_as_a_use() -> None:
    known = {"adaeagle.a", "adaeagle.b.c", "adaeagle.b.d"}
    source = "from adaeagle.b import c\nif TYPE_CHECKING:\n    from adaeagle.a import A\n"
    assert uses(source, known) == {"adaeagle.a", "adaeagle.b.c"}


def test_the_core_loads_nothing_above_it() -> None:
    above = (*FLOORS[1:], "pyarrow")  # Parquet is for traces alone
    code = f"import sys, adaeagle; print(*set({above}).intersection(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
