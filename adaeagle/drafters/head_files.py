"""Draft heads on disk, in the layout of the official checkpoints: `config.json` and one file of
weights."""

import json
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
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
    patterns = ["config.json", *FILES]
    return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


def read_head(folder: Path) -> tuple[dict[str, Any], Weights]:
    """The raw `config.json` and the weights; pickles are read as tensors only."""
    raw = _read(folder / "config.json", lambda file: json.loads(file.read_text(encoding="utf-8")))
    if not isinstance(raw, dict):
        raise ValueError(f"{folder / 'config.json'} must hold a JSON object, got {raw!r}")
    for name in FILES:
        if (folder / name).is_file():
            load = load_file if name.endswith(".safetensors") else _load_pickle
            return raw, _read(folder / name, load)
    raise FileNotFoundError(f"{folder} must hold one of {', '.join(FILES)}")


def _load_pickle(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _read(file: Path, load: Callable[[Path], Any]) -> Any:
    try:
        return load(file)
    except (ValueError, RuntimeError, EOFError, SafetensorError, UnpicklingError) as error:
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
