"""Writes models as bfloat16 files that load in float32, where a CPU is fastest."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from adaeagle import EagleDrafter, Target


def export_model(folder: Path, tokenizer: PreTrainedTokenizerBase | None, out: Path) -> None:
    """A causal LM of `folder`; `config.json` says float32, and values are bfloat16's."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    config.pop("_name_or_path", None)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save_pretrained(out)


def export_head(folder: Path, target: Target, out: Path) -> None:
    """An EAGLE head of `folder`; a drafter casts it to its target's dtype anyway."""
    drafter = EagleDrafter.from_pretrained(str(folder), target)
    drafter.head.bfloat16()
    drafter.save_pretrained(out)
