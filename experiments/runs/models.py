"""From the options of a command to a loaded target, drafter and sampling distribution."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from rich.console import Console

from adaeagle import Target
from adaeagle.data.bundled import bundled_folder
from adaeagle.decoding.sampling import SAMPLING_MODES, Sampling
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.identify import identify
from adaeagle.models.gguf import is_gguf
from adaeagle.models.kernels import MODES, check_mode
from adaeagle.registry import get_drafter
from experiments.errors import InputError, argument
from experiments.options import ModelOptions as ModelOptions
from experiments.options import SamplingOptions

BUNDLED_TARGET = "mini"
BUNDLED_HEAD = "mini"

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Models:
    """The models that are loaded, and what results say of them."""

    target: Target
    drafter: Drafter | None
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
    spec = _drafter_spec(options) if needs_drafter else None
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with Console(stderr=True).status("loading models"):
        target = load_target(options, device)
        with argument("--target", options.target):
            target.check_processors(is_greedy)
        drafter = None if spec is None else _load_drafter(spec, target)
    identity = identify(target, drafter)
    config = {
        "target": options.target,
        "target_weights": identity.target_weights,
        "drafter": spec,
        "drafter_kind": None if drafter is None else drafter.kind,
        "drafter_weights": None if drafter is None else identity.drafter_weights,
        "device": str(target.device),
        "dtype": identity.dtype,
        "threads": torch.get_num_threads(),
        "kernels": target.kernels,
        "revision": options.revision,
        "device_map": options.device_map,
        "quantization": options.quantization,
    }
    return Models(target, drafter, config)


def silence() -> None:
    """Keeps progress bars and notes of the loading libraries out of our output."""
    logging = transformers.utils.logging
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def make_sampling(options: SamplingOptions) -> Sampling:
    """The distribution of the text, checked."""
    mode = options.sampling
    if mode not in SAMPLING_MODES:
        raise InputError(f"--sampling must be one of {', '.join(SAMPLING_MODES)}, got {mode!r}")
    given = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k")}
    for name, value in given.items():
        with argument(f"--{name.replace('_', '-')}", value):
            Sampling(**{name: value})
    return Sampling(**given, mode=mode, seed=options.seed)  # type: ignore[arg-type]


def find_device(name: str | None) -> str:
    """The device that `--device` names."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    with argument("--device", name, "cpu, cuda, cuda:1 or another device of this machine"):
        torch.empty(1, device=torch.device(name))
    return name


def load_target(options: ModelOptions, device: str) -> Target:
    """The target that the options name.

    Args:
        options: the options.
        device: where it goes, unless they spread it over several.
    """
    name, dtype, kernels = options.target, options.dtype, options.kernels
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
            device=None if options.device_map or options.quantization else device,
            dtype=dtype,
            max_length=options.max_length,
            revision=options.revision,
            device_map=options.device_map,
            quantization=options.quantization,
            chat_template=options.chat_template,
            kernels=kernels,  # type: ignore[arg-type]  # checked above
        )


def _load_drafter(spec: str, target: Target) -> Drafter:
    must = f"a drafter made for {target.name}, such as ngram(), or the name of a draft model"
    with argument("--drafter", spec, must):
        drafter: Drafter = get_drafter(spec, target)
        return drafter


def _check_folder(name: str) -> None:
    """Says so at once where a path leads nowhere, which the hub would take for a bad id."""
    if name.startswith((".", "/")) and not Path(name).is_dir():
        raise FileNotFoundError("there is no such folder")


def _drafter_spec(options: ModelOptions) -> str:
    """The drafter to load."""
    if options.drafter is not None:
        return options.drafter
    # A bundled head has its target's name.
    if bundled_folder(options.target, "eagle_head") is None:
        raise InputError(f"--drafter must name a draft model for {options.target}, got none")
    return f"eagle(head={options.target!r})"
