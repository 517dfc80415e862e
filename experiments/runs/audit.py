"""An audit from its settings to its folder.

Question: does drafted text equal plain decoding's, token for token, and where it does not, how near
to each other were the target's two best logits?
Expected: in float32, no divergence at a gap above `NEAR_TIE`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from adaeagle.bench import provenance
from adaeagle.bench.audit import (
    NEAR_TIE,
    Audit,
    AuditRecord,
    Parting,
    Reference,
    TransformersReference,
    VanillaReference,
)
from adaeagle.data.prompts import Prompt
from adaeagle.drafters.identify import identify
from experiments.errors import InputError, argument
from experiments.runs.models import ModelOptions, Models, load_models
from experiments.runs.random_models import RANDOM, is_random, load_random, random_prompts
from experiments.runs.settings import (
    check_policies,
    check_prompts,
    finish,
    load_prompts,
    make_policies,
    open_folder,
    run_identity,
)
from policies.vanilla import Vanilla

POLICIES = (
    "vanilla",
    "chain(length=5)",
    "chain(length=12, stop=confidence(threshold=0.4))",
    "static_tree(tree='eagle1')",
    "eagle2(depth=5, width=4, nodes=16)",
    "eagle2(depth=6, width=10, nodes=59)",
)
REFERENCES = ("transformers", "vanilla")
NUM_RANDOM_PROMPTS = 32


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Settings of an audit."""

    models: ModelOptions = field(default_factory=ModelOptions)
    policies: Sequence[str] = POLICIES
    against: str = "transformers"
    prompts: str | None = None
    limit: int | None = None
    max_new_tokens: int = 256
    skip_long: bool = False
    seed: int = 0
    out: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit compared and where it is written."""

    results: dict[str, Any]  # `results.json`
    out: Path

    @property
    def is_lossless(self) -> bool:
        return bool(self.results["is_lossless"])

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        arms = self.results["arms"]
        totals = ("num_compared", "num_divergences", "num_above_near_tie")
        return {
            "out": str(self.out),
            "num_prompts": len(self.results["per_prompt"]),
            **{key: sum(arm[key] for arm in arms) for key in totals},
            "near_tie": self.results["near_tie"],
            "dtype": self.results["config"]["dtype"],
            "is_lossless": self.results["is_lossless"],
        }


def audit(settings: AuditSettings) -> AuditResult:
    """Runs an audit, or the rest of an interrupted one, and writes its folder.

    Raises:
        InputError: a setting cannot be used.
    """
    if settings.against not in REFERENCES:
        raise InputError(
            f"--against must be one of {', '.join(REFERENCES)}, got {settings.against!r}"
        )
    arms = make_policies(settings.policies)
    drafts = any(not isinstance(policy, Vanilla) for policy in arms.values())
    models = _load(settings, drafts)
    check_policies(arms, partial(identify, models.target, models.drafter))
    prompts = _prompts(settings, models)
    config = {
        **models.config,
        "policies": list(arms),
        "against": settings.against,
        "prompts": settings.prompts,
        "limit": settings.limit,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
    }
    identity = run_identity(config, prompts, models.target)
    folder = open_folder("audit", settings.out, identity, anew=settings.overwrite)
    reference = _reference(settings, models)
    auditor = Audit(models.target, models.drafter, arms, reference, settings.max_new_tokens)
    records = finish(
        folder,
        AuditRecord,
        len(prompts),
        lambda finished: auditor.run(prompts, finished),
        f"prompts under {len(arms)} policies",
    )
    found = _results(records, identity)
    with argument("--out", str(folder.path), "a folder that can be written", OSError):
        folder.write("results.json", json.dumps(found, indent=1) + "\n")
    return AuditResult(found, folder.path)


def _load(settings: AuditSettings, needs_drafter: bool) -> Models:
    if is_random(settings.models.target):
        return load_random(settings.models, settings.seed)
    return load_models(settings.models, needs_drafter=needs_drafter, is_greedy=True)


def _prompts(settings: AuditSettings, models: Models) -> list[Prompt]:
    """A file, a bundled set, or random token ids: what a random model is asked."""
    name = settings.prompts
    if name is None:
        name = RANDOM if is_random(settings.models.target) else "mini"
    if name == RANDOM:
        count = settings.limit or NUM_RANDOM_PROMPTS
        return random_prompts(models.target, count, settings.seed)
    prompts = load_prompts(name, settings.limit)
    return check_prompts(models.target, prompts, name, skip_long=settings.skip_long)


def _reference(settings: AuditSettings, models: Models) -> Reference:
    if settings.against == "vanilla":
        return VanillaReference(models.target, settings.max_new_tokens)
    return TransformersReference(models.target, settings.max_new_tokens)


def _results(records: Sequence[AuditRecord], identity: dict[str, Any]) -> dict[str, Any]:
    """The whole of `results.json`."""
    config = identity["config"]
    partings = [(record.id, parted) for record in records for parted in record.divergences]
    num_above = sum(not parted.is_near_tie for _, parted in partings)
    return {
        "target": config["target"],
        "drafter": config["drafter"],
        **identity,
        "git": provenance.git(),
        "near_tie": NEAR_TIE,
        # Lower precisions round too coarsely for the bound: there divergences are told, not judged.
        "is_lossless": num_above == 0 or config["dtype"] != "float32",
        "arms": [_arm(records, name) for name in records[0].arms],
        "divergences": [{"id": id_, **asdict(parted)} for id_, parted in partings],
        "per_prompt": [_without_states(record) for record in records],
    }


def _arm(records: Sequence[AuditRecord], name: str) -> dict[str, Any]:
    arms = [record.arms[name] for record in records]
    partings = [p for record in records for p in record.divergences if p.policy == name]
    num_rounds = sum(arm.num_rounds for arm in arms)
    return {
        "policy": name,
        "num_compared": sum(arm.num_compared for arm in arms),
        "accepted_per_round": sum(arm.num_accepted for arm in arms) / max(1, num_rounds),
        "num_divergences": len(partings),
        "num_above_near_tie": sum(not parted.is_near_tie for parted in partings),
        "largest_gap": _largest_gap(partings),
    }


def _largest_gap(partings: Sequence[Parting]) -> float | None:
    return max((p.top2_gap for p in partings if p.top2_gap is not None), default=None)


def _without_states(record: AuditRecord) -> dict[str, Any]:
    return {key: value for key, value in record.to_json().items() if key != "policy_states"}
