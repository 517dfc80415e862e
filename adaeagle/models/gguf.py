"""Models in the GGUF format, llama.cpp's: one file with config, tokenizer and weights.

`transformers` reads it and gives the weights back in full precision. What is here says in one line
what is wrong with a file, and gives a model that can be saved like any other.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

SUFFIX = ".gguf"
MAGIC = b"GGUF"
NEEDS = ("gguf", "accelerate")
"""Packages of the extra `adaeagle[gguf]`."""


def is_gguf(name: str) -> bool:
    """Whether a model's name is the path of a GGUF file, by its ending."""
    return name.lower().endswith(SUFFIX)


def gguf_arguments(name: str) -> dict[str, str]:
    """What `transformers` is to be passed for a file: `gguf_file`, beside its folder.

    Raises:
        ModuleNotFoundError: the extra `adaeagle[gguf]` is missing.
        FileNotFoundError: there is no such file.
        ValueError: it is another kind of file, or ends too early.
    """
    missing = [package for package in NEEDS if find_spec(package) is None]
    if missing:
        raise ModuleNotFoundError(
            f"a GGUF file needs {' and '.join(missing)}: pip install 'adaeagle[gguf]'"
        )
    file = Path(name)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {name}")
    _check_whole(file)
    return {"gguf_file": file.name}


def _check_whole(file: Path) -> None:
    with file.open("rb") as opened:
        magic = opened.read(len(MAGIC))
    if magic != MAGIC:
        raise ValueError(f"{file} must be a GGUF file, which begins with {MAGIC!r}, got {magic!r}")
    from gguf import GGUFReader

    try:
        # Reading maps every tensor, so that one beyond the end of the file is noticed.
        tensors = GGUFReader(file).tensors
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise ValueError(f"{file} must be a whole GGUF file, got: {error}") from error
    if not tensors:
        raise ValueError(f"{file} must hold a model's weights, got none")


def unwrap(model: PreTrainedModel) -> None:
    """Takes the marks of quantisation off a model whose weights are in full precision again.

    With them `transformers` refuses to save or to cast it.
    """
    marked: Any = model
    marked.is_quantized = False
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(marked, name):
            delattr(marked, name)
    if hasattr(marked.config, "quantization_config"):
        del marked.config.quantization_config
