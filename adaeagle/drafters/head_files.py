"""Draft heads on disk: `config.json`, and weights in one file or in shards.

Names of weights are those of the official checkpoints, whoever wrote the file: what training
wrappers put before them is taken off.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaeagle.data.bundled import bundled_folder

Weights = dict[str, Tensor]

FILES = (
    "medusa_lm_head.safetensors",
    "medusa_lm_head.pt",
    "model.safetensors",
    "pytorch_model.bin",
)
"""Where weights may be; the first that there is."""

INDICES = "model.safetensors.index.json", "pytorch_model.bin.index.json"
"""Which shard holds each weight, where there is no single file."""

WRAPPERS = re.compile(r"^(?:module|model|draft_model)\.|_orig_mod\.")
"""What data parallelism, compilation and trainers add to a name."""

RECOMPUTED = "rotary_emb.inv_freq"
"""The end of a name that old releases of `transformers` saved for nothing."""

LFS_POINTER = b"version https://git-lfs"


def find_head(name: str, revision: str | None) -> Path:
    """The folder of a bundled head, a local one, or one of the Hugging Face hub."""
    bundled = bundled_folder(name, "eagle_head")
    if bundled is not None:
        return bundled
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"a draft head must be a folder, a bundled name or a Hugging Face id, got {name!r}"
        )
    patterns = ["config.json", *FILES, *INDICES, "*-of-*"]
    return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


def read_head(folder: Path) -> tuple[dict[str, Any], Weights]:
    """The raw `config.json` and the weights; pickles are read as tensors only."""
    raw = _read_json(folder / "config.json")
    weights: Weights = {}
    for file in _weight_files(folder):
        load = load_file if file.suffix == ".safetensors" else _load_pickle
        weights |= _read(file, load)
    return raw, {_official(key): weight for key, weight in weights.items() if _is_read(key)}


def weight_names(folder: Path) -> set[str]:
    """The names of a folder's weights, which are not loaded for it."""
    found: set[str] = set()
    for file in _weight_files(folder):
        found |= _read(file, _names)
    return {_official(key) for key in found}


def _names(file: Path) -> set[str]:
    if file.suffix != ".safetensors":
        return set(torch.load(file, map_location="meta", weights_only=True))
    with safe_open(file, framework="pt") as weights:
        return set(weights.keys())


def _official(key: str) -> str:
    while (bare := WRAPPERS.sub("", key)) != key:
        key = bare
    return key


def _is_read(key: str) -> bool:
    return not key.endswith(RECOMPUTED)


def _weight_files(folder: Path) -> list[Path]:
    for name in FILES:
        if (folder / name).is_file():
            return [folder / name]
    for name in INDICES:
        if (folder / name).is_file():
            shards = set(_read_json(folder / name)["weight_map"].values())
            return [folder / shard for shard in sorted(shards)]
    raise FileNotFoundError(f"{folder} must hold one of {', '.join((*FILES, *INDICES))}")


def _read_json(file: Path) -> dict[str, Any]:
    raw = _read(file, lambda found: json.loads(found.read_text(encoding="utf-8")))
    if not isinstance(raw, dict):
        raise ValueError(f"{file} must hold a JSON object, got {raw!r}")
    return raw


def _load_pickle(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _read(file: Path, load: Callable[[Path], Any]) -> Any:
    with file.open("rb") as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{file} is a Git LFS pointer, not the file: run `git lfs pull`")
    try:
        return load(file)
    except UnpicklingError as error:  # whose own message advises to run what the file holds
        raise ValueError(f"{file} must be whole and readable, and hold tensors alone") from error
    except (ValueError, RuntimeError, EOFError, SafetensorError) as error:
        raise ValueError(f"{file} must be whole and readable, got: {error}") from error


def write_head(folder: Path, raw: dict[str, Any], head: nn.Module) -> None:
    """Writes what `read_head` reads back, without the embedding, which is the target's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    save_file(head.state_dict(), folder / "model.safetensors")


def fill(head: nn.Module, weights: Weights, name: str, kind: str) -> None:
    """Loads `weights` into `head`, each of them and nothing else."""
    expected = head.state_dict()
    missing, unknown = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or unknown:
        raise ValueError(
            f"{name} must hold the weights of an {kind} head: missing {sorted(missing)}, "
            f"not known {sorted(unknown)}"
        )
    for key, weight in expected.items():
        if weights[key].shape != weight.shape:
            raise ValueError(
                f"{key} of {name} must have shape {tuple(weight.shape)}, as its config.json says, "
                f"got {tuple(weights[key].shape)}"
            )
    head.load_state_dict(weights)
