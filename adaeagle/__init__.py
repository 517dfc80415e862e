"""AdaEAGLE: adaptive drafting for speculative decoding, on one lossless draft/verify core."""

from importlib.metadata import version

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
