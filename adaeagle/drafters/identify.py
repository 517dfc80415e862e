"""The identity of loaded models."""

from adaeagle.drafters.base import Drafter
from adaeagle.identity import ModelIdentity
from adaeagle.models.fingerprint import known_fingerprint
from adaeagle.models.target import Target


def identify(target: Target, drafter: Drafter | None) -> ModelIdentity:
    """The identity of loaded models; weights are read once, later changes to them are not seen."""
    network = None if drafter is None else drafter.network
    return ModelIdentity(
        target=target.name,
        target_weights=known_fingerprint(target.model),
        drafter="" if drafter is None else drafter.name,
        drafter_weights="" if network is None else known_fingerprint(network),
        feature_size=target.config.hidden_size,
        vocab_size=target.vocab_size,
        dtype=str(target.dtype).removeprefix("torch."),
    )
