"""The Python on the pages of `docs/` runs, and the package that one of them writes is found."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaeagle.data.bundled import BUNDLED, bundled_folder
from adaeagle.testing.toy_trace import toy_folder, toy_trace
from experiments.cli import main

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [
    "../README.md",
    *sorted(page.name for page in DOCS.glob("*.md") if "```python" in page.read_text("utf-8")),
]
RECORD = ["trace", "--limit", "2", "--max-new-tokens", "12", "--out", "runs/trace"]
"""What the lines that read a trace expect."""

READERS = ("pandas", "polars", "datasets")
FENCE = re.compile(r"^```(python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\S+\.(?:py|toml))\n")


def blocks(page: str) -> tuple[dict[str, str], list[str]]:
    """A page's files, by the path in their first line, and its other Python, in order."""
    files, code = {}, []
    for language, text in FENCE.findall((DOCS / page).read_text("utf-8")):
        if name := FILE_NAME.match(text):
            files[name[1]] = text
        elif language == "python":
            code.append(text)
    return files, code


def write(files: dict[str, str], folder: Path) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from, for one test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page: str, on_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(on_path)
    files, code = blocks(page)
    write(files, on_path)
    if any('"mini"' in text or "runs/trace" in text for text in code):
        if bundled_folder("mini", "eagle_head") is None:
            pytest.skip("the bundled model is not in this checkout")
        if "runs/trace" in "".join(code):
            assert main(RECORD) == 0
    monkeypatch.setenv("HF_DATASETS_CACHE", str(on_path / "cache"))
    names: dict[str, object] = {}
    for text in code:
        for reader in READERS:
            if f"import {reader}" in text or f"from {reader} " in text:
                pytest.importorskip(reader)
        exec(compile(text, page, "exec"), names)


def test_fifty_lines() -> None:
    _, code = blocks("in-50-lines.md")
    assert len(code[0].splitlines()) <= 50


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The package of `write-a-policy.md`, with what an installer writes beside it."""
    return install("write-a-policy.md", tmp_path)


def install(page: str, tmp_path: Path) -> Path:
    """The package that a page writes, with what an installer writes beside it."""
    files, _ = blocks(page)
    write(files, tmp_path)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    name = project["name"].replace("-", "_")
    about = tmp_path / f"{name}-{project['version']}.dist-info"
    entries = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in names.items())
        for group, names in project["entry-points"].items()
    ]
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    write({"METADATA": metadata, "entry_points.txt": "\n".join(entries)}, about)
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    """Another Python, with the package in `folder` on its path."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_policy_of_another_package_is_found_by_name(example: Path) -> None:
    code = """
import adaeagle
from adaeagle import registry
print(sorted({"echo", "steep", "chain"} & set(registry.names())))
print(adaeagle.get_policy("echo(most=5)").most)
print(adaeagle.get_policy("eagle2(stop=steep(drop=2.0))").stop.drop)
print(type(adaeagle.get_policy("steep").stop).__module__)
"""
    expected = ["['chain', 'echo', 'steep']", "5", "2.0", "drafting_ideas.steep"]
    assert run(example, "-c", code).split("\n")[:-1] == expected


def test_its_own_tests_pass(example: Path) -> None:
    """The conformance suite needs nothing of this repository's tests."""
    said = run(example, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert re.search(r"\d\d passed", said)
    assert "failed" not in said


def test_a_drafter_of_another_package(tmp_path: Path) -> None:
    """It is found by name, held to the contract, compared and replayed."""
    folder = install("write-a-drafter.md", tmp_path)
    found = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert re.search(r"\d\d passed", found)
    assert "failed" not in found
    listed = json.loads(run(folder, "-m", "experiments.cli", "drafters", "--json"))
    assert {"bigrams", "parrot", "ngram"} <= {row["name"] for row in listed}
    if bundled_folder("mini", "target") is None:
        pytest.skip("the bundled model is not in this checkout")
    cli = ("-m", "experiments.cli")
    drafted = ("--drafter", "bigrams", "--policies", "vanilla", "chain(length=3)")
    run(folder, *cli, "compare", *RECORD[1:5], "--out", "live", *drafted, "--json")
    assert '"drafter_kind": "bigrams"' in (folder / "live/results.json").read_text()
    run(folder, *cli, *RECORD)
    cost = str(BUNDLED / "mini/cost.json")
    run(folder, *cli, "replay", RECORD[-1], "--cost", cost, "--out", "played", *drafted, "--json")
    live, played = (
        json.loads((folder / out / "results.json").read_text())["arms"]
        for out in ("live", "played")
    )
    for one, other in zip(live, played, strict=True):
        for key in ("policy", "num_tokens", "tokens_per_round", "verified_nodes"):
            assert one[key] == other[key]


def test_a_predictor_of_another_package_is_trained_by_name(tmp_path: Path) -> None:
    folder = install("write-a-predictor.md", tmp_path / "package")
    toy_folder(tmp_path / "trace", toy_trace([[3, 0, 2, 1, 5, 0, 1, 2] * 3] * 4))
    trained = ("--trace", str(tmp_path / "trace"), "--out", str(tmp_path / "it"))
    wanted = ("--kind", "margin(hidden_size=4)", "--max-steps", "2", "--accelerator", "cpu")
    said = run(folder, "-m", "experiments.cli", "train-predictor", *trained, *wanted)
    assert json.loads(said)["kind"] == "margin"
    found = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert re.search(r"\d\d passed", found)
    assert "failed" not in found
    code = f"""
import adaeagle
rule = adaeagle.get_policy("disco(predictor='{tmp_path / "it"}')").stop
print(type(rule.predictor).__module__, rule.predictor.hidden_size, rule.needs.num_confidences)
"""
    assert run(folder, "-c", code).split() == ["drafting_ideas.margin", "4", "2"]
