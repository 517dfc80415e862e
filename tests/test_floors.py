"""The floors of the house: imports run downwards only, and the core loads nothing above it."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("adaeagle", "predictors", "policies", "experiments")  # from the ground up
INNER: dict[str, tuple[str, ...]] = {
    # Of each package its folders and files from the ground up, one string a floor; "*" stands for
    # the files at its root that are not named.
    "adaeagle": (
        "data",
        "*",
        "models",
        "drafters",
        "decoding",
        "cost",
        "trace",
        "replay",
        "bench",
        "testing",
    ),
    "predictors": (
        "*",
        "layers",
        "data",
        "acceptance",
        "length",
        "hazard",
        "training",
        "draft_models",
        "evaluation",
    ),
    "experiments": (
        "recorded errors",
        "early",
        "options",
        "views",
        "runs",
        "report",
        "sweep",
        "confirm",
        "study",
        "commands benchmarks mini",
        "smollm2",
        "cli",
    ),
}
SILENT = ("runs", "sweep", "confirm", "study", "report", "views")
"""Folders of `experiments` that return results, which commands print."""


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


def modules_of(package: str) -> dict[str, str]:
    """The source of every module by its dotted name, but for the facade, which imports them all."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    sources = {
        name.removesuffix(".__init__"): file.read_text(encoding="utf-8")
        for name, file in zip(names, files, strict=True)
    }
    del sources[package]
    return sources


def uses(source: str, known: Iterable[str]) -> set[str]:
    """Which of the known modules a file imports, wherever in the file, also for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found.intersection(known)


def room_of(module: str) -> str:
    """The folder or file of a package that a module lies in, as `INNER` names it."""
    package, part, *_ = module.split(".")
    return part if any(part in floor.split() for floor in INNER[package]) else "*"


@pytest.mark.parametrize("package", INNER)
def test_inside_a_package_imports_run_downwards(package: str) -> None:
    floors = {room: place for place, floor in enumerate(INNER[package]) for room in floor.split()}
    modules = modules_of(package)
    for module, source in modules.items():
        room = room_of(module)
        for used in uses(source, modules):
            below = room_of(used)
            assert below == room or floors[below] < floors[room], f"{module} imports {used}"


@pytest.mark.parametrize("package", FLOORS)
def test_no_module_imports_itself_in_the_end(package: str) -> None:
    modules = modules_of(package)
    known = {module: uses(source, modules) - {module} for module, source in modules.items()}
    while leaves := [module for module, used in known.items() if not used]:
        for leaf in leaves:
            del known[leaf]
        known = {module: used.difference(leaves) for module, used in known.items()}
    assert not known, f"import circles among {', '.join(sorted(known))}"


@pytest.mark.parametrize("folder", SILENT)
def test_runs_do_not_print(folder: str) -> None:
    for module, source in modules_of("experiments").items():
        if room_of(module) == folder:
            calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
            names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
            assert not names & {"print", "redirect_stdout"}, module


def test_what_counts_as_a_use() -> None:
    known = {"adaeagle.a", "adaeagle.b.c", "adaeagle.b.d"}
    source = "from adaeagle.b import c\nif TYPE_CHECKING:\n    from adaeagle.a import A\n"
    assert uses(source, known) == {"adaeagle.a", "adaeagle.b.c"}


def test_the_core_loads_nothing_above_it() -> None:
    above = (*FLOORS[1:], "pyarrow")  # Parquet is for traces alone
    code = f"import sys, adaeagle; print(*set({above}).intersection(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
