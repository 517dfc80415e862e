"""What a trace is: of which models, of which prompts, and which shard holds what."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adaeagle.data.splits import Split
from adaeagle.drafters.base import Drafter
from adaeagle.identity import ModelIdentity
from adaeagle.models.fingerprint import fingerprint
from adaeagle.models.target import Target

FORMAT = 1
"""Of the folder; another number is another layout."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Prompts that are stored together, all of one split."""

    split: Split
    prompt_ids: list[str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that decides what a trace holds. It is written before the first shard."""

    target: str
    drafter: str
    drafter_kind: str
    dtype: str
    device: str  # its kind: processes of one trace run on cuda:0, cuda:1, ...
    target_weights: str  # fingerprint
    drafter_weights: str  # fingerprint
    vocab_size: int  # the target's
    prompts: str  # the set's name or file
    prompts_sha256: str
    max_new_tokens: int
    envelope: list[str]  # policies, whose drafts together are recorded
    num_top: int  # choices of the target recorded for each token
    generation: dict[str, Any]  # where texts end, what is done to logits
    versions: dict[str, str]
    prompt_ids: list[str]  # in order
    shards: list[Shard]
    recorded_on: dict[str, Any]  # hardware and commit that began it

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a recording to go on: all but whence prompts and machine came."""
        found = self.to_json()
        del found["prompts"], found["recorded_on"]
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the identity; each shard carries it."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def models(self, feature_size: int) -> ModelIdentity:
        """What recorded the trace; how large its features are the shards tell."""
        return ModelIdentity(
            target=self.target,
            target_weights=self.target_weights,
            drafter=self.drafter,
            drafter_weights=self.drafter_weights,
            feature_size=feature_size,
            vocab_size=self.vocab_size,
            dtype=self.dtype,
        )

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(self)}))
        return found

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Manifest":
        """What `to_json` gave.

        Raises:
            ValueError: it is of another format, or no manifest.
        """
        if not isinstance(raw, dict) or "format" not in raw:
            raise ValueError("it must be the manifest of a trace")
        if raw["format"] != FORMAT:
            raise ValueError(
                f"format must be {FORMAT}, got {raw['format']!r}: another version of adaeagle "
                f"recorded it"
            )
        known = {key: value for key, value in raw.items() if key != "format"}
        try:
            return cls(**{**known, "shards": [Shard(**shard) for shard in raw["shards"]]})
        except (KeyError, TypeError) as error:
            raise ValueError(f"it must be the manifest of a trace: {error}") from None


def plan_shards(
    prompt_ids: Sequence[str], splits: dict[str, Split], prompts_per_shard: int
) -> list[Shard]:
    """Prompts in their order, so many a shard; none mixes splits, so tuning opens no test data.

    Args:
        prompt_ids: to be recorded.
        splits: of all of them.
        prompts_per_shard: at most.
    """
    if prompts_per_shard < 1:
        raise ValueError(f"prompts_per_shard must be >= 1, got {prompts_per_shard}")
    shards: list[Shard] = []
    filling: dict[Split, Shard] = {}
    for prompt_id in prompt_ids:
        split = splits[prompt_id]
        shard = filling.get(split)
        if shard is None or len(shard.prompt_ids) == prompts_per_shard:
            shard = filling[split] = Shard(split, [])
            shards.append(shard)
        shard.prompt_ids.append(prompt_id)
    return shards


def check_models(manifest: Manifest, *, target: Target, drafter: Drafter) -> None:
    """Refuses a trace that other models recorded, or these in another precision.

    Raises:
        ValueError: the message says which of them, by name and weights.
    """
    recorded = manifest.target, manifest.target_weights
    _check("target", *recorded, target.name, fingerprint(target.model))
    recorded = manifest.drafter, manifest.drafter_weights
    weights = "" if drafter.network is None else fingerprint(drafter.network)
    _check("drafter", *recorded, drafter.name, weights)
    dtype = str(target.dtype).removeprefix("torch.")
    if dtype != manifest.dtype:
        raise ValueError(f"dtype must be the one that was recorded, {manifest.dtype}, got {dtype}")


def _check(part: str, name: str, weights: str, given: str, given_weights: str) -> None:
    if given_weights != weights:
        raise ValueError(
            f"{part} must be the one that was recorded, {name} (weights {weights}), "
            f"got {given} (weights {given_weights})"
        )
