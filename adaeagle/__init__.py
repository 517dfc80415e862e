"""AdaEAGLE: adaptive drafting for speculative decoding, on one lossless draft/verify core."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaeagle.decoding.generate import generate, generate_batch, stream, stream_batch
    from adaeagle.drafters.causal_lm import ModelDrafter
    from adaeagle.drafters.eagle import EagleDrafter
    from adaeagle.models.target import Target
    from adaeagle.policy import Budget, Context, Outcome, Policy, StopRule
    from adaeagle.records import Generation, Piece, Round
    from adaeagle.registry import get_drafter, get_policy
    from adaeagle.tree import DraftTree

__version__ = version("adaeagle")

__all__ = [
    "Budget",
    "Context",
    "DraftTree",
    "EagleDrafter",
    "Generation",
    "ModelDrafter",
    "Outcome",
    "Piece",
    "Policy",
    "Round",
    "StopRule",
    "Target",
    "generate",
    "generate_batch",
    "get_drafter",
    "get_policy",
    "stream",
    "stream_batch",
]

_HOMES = {
    "decoding.generate": ("generate", "generate_batch", "stream", "stream_batch"),
    "drafters.causal_lm": ("ModelDrafter",),
    "drafters.eagle": ("EagleDrafter",),
    "models.target": ("Target",),
    "policy": ("Budget", "Context", "Outcome", "Policy", "StopRule"),
    "records": ("Generation", "Piece", "Round"),
    "registry": ("get_drafter", "get_policy"),
    "tree": ("DraftTree",),
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: torch and transformers take seconds."""
    for module, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"adaeagle.{module}"), name)
            return found
    raise AttributeError(f"module 'adaeagle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
