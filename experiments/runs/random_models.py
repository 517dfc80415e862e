"""Small random models and prompts for them: correctness needs no training, only varied text.

At a deviation of 0.2 a random model's greedy text goes on without falling into a loop, and no
distribution is flat or peaked. The draft model is the target with a little noise on its weights, so
that it is right about as often as it is wrong.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from adaeagle import ModelDrafter, Target
from adaeagle.data.prompts import Prompt
from adaeagle.models.fingerprint import fingerprint
from experiments.errors import InputError, argument
from experiments.runs.models import DTYPES, ModelOptions, Models, find_device, silence

RANDOM = "random"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
DEVIATION = 0.2
NOISE = 0.02  # of each matrix's own deviation
SHORTEST, LONGEST = 4, 64  # prompts


def is_random(name: str) -> bool:
    """Whether `--target` asks for `random` or `random:FAMILY`."""
    return name.partition(":")[0] == RANDOM


def load_random(options: ModelOptions, seed: int) -> Models:
    """A random target of the family named in `options.target`, and its noisy copy as drafter.

    Raises:
        InputError: an option does not fit.
    """
    family = options.target.partition(":")[2] or FAMILIES[0]
    if family not in FAMILIES:
        raise InputError(
            f"--target random:FAMILY must name one of {', '.join(FAMILIES)}, got {family!r}"
        )
    if options.drafter is not None:
        raise InputError(
            f"--drafter must not be given for a random target, got {options.drafter!r}"
        )
    if options.dtype not in (None, *DTYPES):
        raise InputError(f"--dtype must be one of {', '.join(DTYPES)}, got {options.dtype!r}")
    silence()
    device = find_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with argument("--target", options.target):
        model = _random_model(family, seed).to(device, getattr(torch, options.dtype or "float32"))
        target = Target(model, name=options.target)
        drafter = ModelDrafter(Target(_with_noise(model, seed)), target)
    config = {
        "target": options.target,
        "target_weights": fingerprint(target.model),
        "drafter": f"the target with {NOISE:.0%} of noise",
        "drafter_kind": "model",
        "drafter_weights": fingerprint(drafter.model.model),
        "device": str(target.device),
        "dtype": str(target.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    return Models(target, drafter, config)


def _random_model(family: str, seed: int) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family,
        **SIZES,
        initializer_range=DEVIATION,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **({"sliding_window": None} if family == "mistral" else {}),
    )
    return AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]


def _with_noise(model: nn.Module, seed: int) -> Any:
    noisy = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in noisy.parameters():
            if weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight.add_(NOISE * weight.std() * noise)
    return noisy


def random_prompts(target: Target, count: int, seed: int) -> list[Prompt]:
    """`count` prompts of random tokens, `SHORTEST` to `LONGEST` of them."""
    generator = torch.Generator().manual_seed(seed)
    longest = min(LONGEST, target.max_length - 1)
    prompts = []
    for number in range(count):
        length = int(torch.randint(min(SHORTEST, longest), longest + 1, (), generator=generator))
        ids = torch.randint(target.vocab_size, (length,), generator=generator).tolist()
        prompts.append(Prompt(f"{RANDOM}-{number}", token_ids=tuple(ids)))
    return prompts
