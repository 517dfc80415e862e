"""From the options of a command to a loaded target, drafter and sampling distribution."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from rich.console import Console
from safetensors import safe_open

from adaeagle import EagleDrafter, ModelDrafter, Target
from adaeagle.data.bundled import bundled_folder
from adaeagle.decoding.sampling import SAMPLING_MODES, Sampling
from adaeagle.models.fingerprint import fingerprint
from adaeagle.models.gguf import is_gguf
from adaeagle.models.kernels import MODES, check_mode
from experiments.errors import InputError, argument

BUNDLED_TARGET = "mini"
BUNDLED_HEAD, BUNDLED_LM = "mini", "mini-lm"
"""What `--drafter` calls the two draft models of the bundled target."""

DTYPES = ("float32", "bfloat16", "float16")
KINDS = ("auto", "eagle", "model")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the user said about models."""

    target: str = BUNDLED_TARGET
    drafter: str | None = None
    drafter_kind: str = "auto"
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    kernels: str = "auto"


@dataclass(frozen=True, slots=True)
class Models:
    """What came of it."""

    target: Target
    drafter: EagleDrafter | ModelDrafter | None
    config: dict[str, Any]  # resolved, for the results


def load_models(options: ModelOptions, *, needs_drafter: bool, is_greedy: bool) -> Models:
    """Loads target and drafter.

    Args:
        options: which.
        needs_drafter: whether any policy drafts.
        is_greedy: whether the text is of temperature 0, where fewer settings of a generation
            config matter.

    Raises:
        InputError: an option does not fit.
    """
    silence()
    device = find_device(options.device)
    name, kind = _drafter_choice(options) if needs_drafter else (None, None)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with Console(stderr=True).status("loading models"):
        target = load_target(options.target, device, options.dtype, options.kernels)
        with argument("--target", options.target):
            target.check_processors(is_greedy)
        drafter = None if name is None else _load_drafter(name, kind, target, options)
    config = {
        "target": options.target,
        "target_weights": fingerprint(target.model),
        "drafter": (options.drafter or name) if drafter else None,
        "drafter_kind": kind,
        "drafter_weights": _drafter_weights(drafter),
        "device": str(target.device),
        "dtype": str(target.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "kernels": target.kernels,
    }
    return Models(target, drafter, config)


def silence() -> None:
    """Keeps progress bars and notes of the loading libraries out of our output."""
    logging = transformers.utils.logging
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def make_sampling(
    temperature: float, top_p: float, top_k: int, sampling: str, seed: int
) -> Sampling:
    """The distribution of the text, checked."""
    if sampling not in SAMPLING_MODES:
        raise InputError(f"--sampling must be one of {', '.join(SAMPLING_MODES)}, got {sampling!r}")
    for option, value in (("--temperature", temperature), ("--top-p", top_p), ("--top-k", top_k)):
        with argument(option, value):
            keyword = option.removeprefix("--").replace("-", "_")
            Sampling(**{keyword: value})  # type: ignore[arg-type]
    return Sampling(temperature, top_p, top_k, sampling, seed)  # type: ignore[arg-type]


def find_device(name: str | None) -> str:
    """The device that `--device` names."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    with argument("--device", name, "cpu, cuda, cuda:1 or another device of this machine"):
        torch.empty(1, device=torch.device(name))
    return name


def load_target(name: str, device: str, dtype: str | None, kernels: str = "auto") -> Target:
    """The target that `--target`, `--device`, `--dtype` and `--kernels` name."""
    with argument("--kernels", kernels, f"one of {', '.join(MODES)}"):
        check_mode(kernels)
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if (
        name == BUNDLED_TARGET
        and bundled_folder(name, "target") is None
        and not Path(name).exists()
    ):
        raise InputError(f"--target {name!r}: this installation carries no bundled model")
    must = "mini, smollm2, a folder, a .gguf file or a Hugging Face id of a causal language model"
    with argument("--target", name, must):
        if not is_gguf(name):
            _check_folder(name)
        return Target.from_pretrained(
            name,
            device=device,
            dtype=dtype,
            kernels=kernels,  # type: ignore[arg-type]  # checked above
        )


def _load_drafter(
    name: str, kind: str | None, target: Target, options: ModelOptions
) -> EagleDrafter | ModelDrafter:
    loader = EagleDrafter if kind == "eagle" else ModelDrafter
    must = "an EAGLE head" if kind == "eagle" else "a causal language model"
    with argument("--drafter", options.drafter or name, f"{must} made for {target.name}"):
        _check_folder(name)
        return loader.from_pretrained(name, target)


def _check_folder(name: str) -> None:
    """Says so at once where a path leads nowhere, which the hub would take for a bad id."""
    if name.startswith((".", "/")) and not Path(name).is_dir():
        raise FileNotFoundError("there is no such folder")


def _drafter_choice(options: ModelOptions) -> tuple[str, str]:
    """Name and kind of the drafter to load."""
    if options.drafter_kind not in KINDS:
        raise InputError(
            f"--drafter-kind must be one of {', '.join(KINDS)}, got {options.drafter_kind!r}"
        )
    name = options.drafter
    if name is None:
        # A bundled head has its target's name.
        if bundled_folder(options.target, "eagle_head") is None:
            raise InputError(f"--drafter must name a draft model for {options.target}, got none")
        return options.target, "eagle"
    if name == BUNDLED_LM and not Path(name).exists():
        return BUNDLED_TARGET, "model"
    if options.drafter_kind != "auto":
        return name, options.drafter_kind
    if bundled_folder(name, "eagle_head") is not None:
        return name, "eagle"
    return name, _kind_of(name)


def _kind_of(name: str) -> str:
    """An EAGLE head has an input layer `fc` and no vocabulary-sized output layer of its own."""
    folder = Path(name)
    if not folder.is_dir():
        return "eagle" if "eagle" in name.lower() else "model"
    with argument("--drafter", name, "a folder with a draft model"):
        return "eagle" if "fc.weight" in _weight_names(folder) else "model"


def _weight_names(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            return set(weights.keys())
    if index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    if (folder / "pytorch_model.bin").is_file():
        path = folder / "pytorch_model.bin"
        return set(torch.load(path, map_location="meta", weights_only=True))
    raise FileNotFoundError("it holds no model.safetensors and no pytorch_model.bin")


def _drafter_weights(drafter: EagleDrafter | ModelDrafter | None) -> str | None:
    if drafter is None:
        return None
    return fingerprint(drafter.head if isinstance(drafter, EagleDrafter) else drafter.model.model)
