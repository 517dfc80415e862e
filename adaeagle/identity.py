"""Which models a policy runs on, for policies that were made for some models alone."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A target and what drafts for it."""

    target: str  # name
    target_weights: str  # fingerprint
    drafter: str  # name; empty: none
    drafter_weights: str  # fingerprint; empty where the drafter has no `network`
    feature_size: int  # of the target's features
    vocab_size: int  # of the target
    dtype: str  # of the target's features


Identify = Callable[[], ModelIdentity]
"""Tells it when asked: fingerprints read weights."""
