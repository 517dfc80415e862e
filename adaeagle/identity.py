"""Which models a policy runs on, for policies that were made for some models alone."""

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from adaeagle.bench.provenance import fingerprint
from adaeagle.drafters.base import Drafter
from adaeagle.target import Target


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

_known: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()


def identify(target: Target, drafter: Drafter | None) -> ModelIdentity:
    """The identity of loaded models; weights are read once, later changes to them are not seen."""
    network = getattr(drafter, "network", None)
    return ModelIdentity(
        target=target.name,
        target_weights=_fingerprint(target.model),
        drafter="" if drafter is None else drafter.name,
        drafter_weights=_fingerprint(network) if isinstance(network, nn.Module) else "",
        feature_size=target.config.hidden_size,
        vocab_size=target.vocab_size,
        dtype=str(target.dtype).removeprefix("torch."),
    )


def _fingerprint(network: nn.Module) -> str:
    if network not in _known:
        _known[network] = fingerprint(network)
    return _known[network]
