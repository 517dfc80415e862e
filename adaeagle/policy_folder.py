"""A policy in a folder of its own, with the files it reads: what `get_policy` loads anywhere.

policy.json   the spec; texts that begin with ./ are paths in the folder
...           the files and folders that the spec names
"""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from adaeagle.data.files import write_whole

FILE = "policy.json"
FORMAT, VERSION = "adaeagle policy", 1
HERE = "./"


def is_policy_folder(path: str) -> bool:
    """Whether a text is the path of such a folder."""
    try:
        return (Path(path) / FILE).is_file()
    except (OSError, ValueError):  # a spec too long for a path, or with a character none may have
        return False


def read_spec(folder: Path) -> str:
    """The spec, with paths that hold from here.

    Raises:
        ValueError: the file is no policy, or of another version.
    """
    try:
        raw = json.loads((folder / FILE).read_bytes())
        if raw["format"] != FORMAT or raw["version"] != VERSION:
            raise ValueError(f"it must be of version {VERSION}, got {raw['version']!r}")
        return _with_texts(
            raw["policy"], lambda text: str(folder / text) if text.startswith(HERE) else text
        )
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{folder / FILE} holds no policy: {error!r}") from error


def write_policy(folder: Path, spec: str) -> list[Path]:
    """Writes a policy and copies of the files and folders it names.

    A text of the spec that is the path of something is taken for a path.

    Args:
        folder: new, or empty.
        spec: of the policy.

    Returns:
        What was written.

    Raises:
        FileExistsError: the folder is not empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} must be empty")
    copied: dict[Path, str] = {}

    def take(text: str) -> str:
        try:
            source = Path(text).resolve(strict=True) if text else None
        except (OSError, ValueError):
            return text
        if source is None:
            return text
        if source not in copied:
            copied[source] = _copy(source, folder, len(copied))
        return HERE + copied[source]

    payload = {"format": FORMAT, "version": VERSION, "policy": _with_texts(spec, take)}
    write_whole(folder / FILE, (json.dumps(payload, indent=1) + "\n").encode())
    return [folder / FILE, *(folder / name for name in copied.values())]


def _copy(source: Path, folder: Path, number: int) -> str:
    """Copies a file or folder; returns its name there."""
    name = source.name if not (folder / source.name).exists() else f"{number}-{source.name}"
    if source.is_dir():
        shutil.copytree(source, folder / name)
    else:
        shutil.copy2(source, folder / name)
    return name


def _with_texts(spec: str, change: Callable[[str], str]) -> str:
    """A spec with every text in it changed."""
    tree = ast.parse(spec.strip(), mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = change(node.value)
    return ast.unparse(tree)
