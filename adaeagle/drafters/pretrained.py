"""Drafters by name: what the specs `eagle(...)`, `lm(...)` and `pretrained(...)` build.

Source: EAGLE, Li et al. 2024, https://arxiv.org/abs/2401.15077, and speculative decoding, Leviathan
et al. 2022, https://arxiv.org/abs/2211.17192; see the modules of the two drafters.
"""

import re
from collections.abc import Callable
from pathlib import Path

from adaeagle.data.bundled import bundled_folder
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.causal_lm import LM, ModelDrafter
from adaeagle.drafters.eagle import EagleDrafter
from adaeagle.drafters.head_files import weight_names
from adaeagle.drafters.medusa import medusa
from adaeagle.models.target import Target

MEDUSA_BLOCK = re.compile(r"(medusa_heads?\.)?(\d+\.\d+\.linear|blocks\.\d+\.layers\.\d+)\.weight")
"""The name of a weight that only Medusa's heads have."""


def eagle(
    target: Target,
    head: str = "mini",
    draft_vocab: str | None = None,
    revision: str | None = None,
) -> EagleDrafter:
    """An EAGLE-1, EAGLE-2 or EAGLE-3 head on the target's features.

    Args:
        target: whose features it reads.
        head: a bundled one, a folder or a Hugging Face id.
        draft_vocab: a JSON file with the list of target ids that an EAGLE-1/2 head shall draft
            from; None: as the head was trained.
        revision: of a Hugging Face repository.
    """
    return EagleDrafter.from_pretrained(head, target, draft_vocab=draft_vocab, revision=revision)


def lm(target: Target, model: str = "mini", revision: str | None = None) -> ModelDrafter:
    """A small causal LM with the target's vocabulary.

    Args:
        target: what it drafts for.
        model: a bundled one, a folder or a Hugging Face id.
        revision: of a Hugging Face repository.
    """
    return ModelDrafter.from_pretrained(model, target, revision=revision)


def pretrained(target: Target, name: str, revision: str | None = None) -> Drafter:
    """An EAGLE head, Medusa's heads or a small LM, whichever the files say.

    Args:
        target: what it drafts for.
        name: a bundled one (`mini`, and `mini-lm` for its small LM), a folder or a Hugging Face id.
        revision: of a Hugging Face repository.
    """
    if not Path(name).exists():
        if name.endswith(LM) and bundled_folder(name.removesuffix(LM), "draft_lm"):
            return lm(target, name)
        if bundled_folder(name, "eagle_head"):
            return eagle(target, name)
    return LOADERS[kind_of(name)](target, name, revision=revision)


LOADERS: dict[str, Callable[..., Drafter]] = {"eagle": eagle, "medusa": medusa, "lm": lm}


def kind_of(name: str) -> str:
    """Which of `LOADERS` loads a folder or an id of the hub.

    Files tell: EAGLE heads have an input layer `fc`. Of an id of the hub, only its name is known.

    Raises:
        FileNotFoundError: the path of a folder leads nowhere, or to no weights.
    """
    folder = Path(name)
    if folder.is_dir():
        names = weight_names(folder)
        if "fc.weight" in names:
            return "eagle"
        return "medusa" if any(map(MEDUSA_BLOCK.fullmatch, names)) else "lm"
    if name.startswith((".", "/")):  # the hub would take it for a bad id
        raise FileNotFoundError("there is no such folder")
    return next((kind for kind in ("eagle", "medusa") if kind in name.lower()), "lm")
