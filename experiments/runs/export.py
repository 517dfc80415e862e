"""A policy in the words of other engines, or as a folder.

Counting, as those engines do it: ours are draft forwards (`depth`), nodes expanded by each one
(`width`) and drafted tokens verified (`nodes`).

    vLLM      `num_speculative_tokens`: tokens of a chain. Trees it has none: tree attention was
              removed (https://github.com/vllm-project/vllm/pull/42121).
    SGLang    `--speculative-num-steps`: depth; `--speculative-eagle-topk`: width;
              `--speculative-num-draft-tokens`: nodes and the root. It builds EAGLE-2's tree
              (https://docs.sglang.io/advanced_features/speculative_decoding.html).
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaeagle.drafters.head_files import read_head
from adaeagle.drafters.pretrained import kind_of
from adaeagle.policy import Policy
from adaeagle.policy_folder import is_policy_folder, read_spec, write_policy
from adaeagle.registry import get_policy
from experiments.errors import InputError, argument
from policies.chain import Chain
from policies.eagle2 import Eagle2
from policies.static_tree import StaticTree
from policies.vanilla import Vanilla

VLLM_METHODS = {"eagle": "eagle", "eagle3": "eagle3", "lm": "draft_model"}
SGLANG_ALGORITHMS = {"eagle": "EAGLE", "eagle3": "EAGLE3", "lm": "STANDALONE"}


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Settings of an export."""

    policy: str  # a spec, the folder of a policy, or best.json of a sweep
    to: str
    target: str | None = None
    drafter: str | None = None
    drafter_kind: str = "auto"
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """A draft that is decided before a text begins."""

    depth: int
    width: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Models:
    """What the other engine is to load."""

    target: str
    drafter: str
    kind: str  # eagle, eagle3 or lm


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A policy as options of another engine."""

    to: str
    policy: str  # its spec
    exported: dict[str, Any]  # `command` and arguments of an engine, or the folder

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        return {"to": self.to, "policy": self.policy, **self.exported}


def export(settings: ExportSettings) -> ExportResult:
    """Writes a policy for another engine, or into a folder.

    Raises:
        InputError: a setting cannot be used, or the engine cannot do what the policy does.
    """
    if settings.to not in (*ENGINES, "folder"):
        known = ", ".join((*ENGINES, "folder"))
        raise InputError(f"--to must be one of {known}, got {settings.to!r}")
    spec, found = _read(settings.policy)
    with argument("--policy", settings.policy):
        policy = get_policy(spec)
    if settings.to == "folder":
        exported = _to_folder(spec, settings.out)
    else:
        with argument("--policy", spec):
            setting = static_setting(policy)
            models = _models(settings, found)
            exported = ENGINES[settings.to](setting, models)
        exported |= _write(settings.out, exported)
    return ExportResult(settings.to, spec, exported)


def _read(policy: str) -> tuple[str, dict[str, Any]]:
    """The spec, and what is known beside it where it comes from a sweep."""
    path = Path(policy)
    if is_policy_folder(policy):
        with argument("--policy", policy, errors=ValueError):
            return read_spec(path), {}
    if path.suffix != ".json":
        return policy, {}
    with argument("--policy", policy, "a spec, or best.json of a sweep"):
        found = json.loads(path.read_bytes())
        return found["policy"], found


def static_setting(policy: Policy) -> Setting:
    """What a policy decides, where it decides nothing while it drafts.

    Raises:
        ValueError: it does, or drafts in a shape that other engines do not have.
    """
    stop = getattr(policy, "stop", None)
    if stop is not None:
        raise ValueError(f"it must be without a stop rule, got {type(stop).__name__}")
    match policy:
        case Vanilla():
            raise ValueError("it must draft, got plain decoding: leave speculation off")
        case Chain(length=length):
            return Setting(length, 1, length)
        case Eagle2(depth=depth, width=width, nodes=nodes):
            return Setting(depth, width, min(nodes, width + (depth - 1) * width**2))
        case StaticTree(depth=depth, nodes=nodes) if nodes == depth:
            return Setting(depth, 1, nodes)
    raise ValueError(f"it must be a chain or an eagle2 tree, got {type(policy).__name__}")


def vllm(setting: Setting, models: Models) -> dict[str, Any]:
    """The JSON of `--speculative-config`.

    Raises:
        ValueError: it is a tree.
    """
    if setting.width > 1:
        raise ValueError(f"it must be a chain for vLLM, got a tree of width {setting.width}")
    config = {
        "method": VLLM_METHODS[models.kind],
        "model": models.drafter,
        "num_speculative_tokens": min(setting.depth, setting.nodes),
    }
    command = ["vllm", "serve", models.target, "--speculative-config", json.dumps(config)]
    return {"config": config, "command": shlex.join(command)}


def sglang(setting: Setting, models: Models) -> dict[str, Any]:
    """The flags of `sglang.launch_server`."""
    # With one child a node SGLang drafts exactly as many tokens as steps.
    depth = min(setting.depth, setting.nodes) if setting.width == 1 else setting.depth
    config = {
        "--speculative-algorithm": SGLANG_ALGORITHMS[models.kind],
        "--speculative-draft-model-path": models.drafter,
        "--speculative-num-steps": depth,
        "--speculative-eagle-topk": setting.width,
        "--speculative-num-draft-tokens": (depth if setting.width == 1 else setting.nodes) + 1,
    }
    flags = [str(part) for pair in config.items() for part in pair]
    command = ["python3", "-m", "sglang.launch_server", "--model-path", models.target, *flags]
    return {"config": config, "command": shlex.join(command)}


ENGINES: dict[str, Callable[[Setting, Models], dict[str, Any]]] = {"vllm": vllm, "sglang": sglang}


def _models(settings: ExportSettings, found: dict[str, Any]) -> Models:
    """From the options, or from what a sweep says it was made for."""
    swept = found.get("models", {})
    target, drafter = (
        settings.target or swept.get("target"),
        settings.drafter or swept.get("drafter"),
    )
    for option, name in (("--target", target), ("--drafter", drafter)):
        if name is None:
            raise InputError(f"{option} must name the model that {settings.to} is to load")
    kind = settings.drafter_kind
    if kind == "auto":
        with argument("--drafter", drafter, errors=(OSError, ValueError)):
            kind = _kind_of(drafter)
        if settings.drafter is None:  # a look-up of the sweep's is refused below
            kind = swept.get("drafter_kind") or kind
    if kind not in VLLM_METHODS:
        known = ", ".join(VLLM_METHODS)
        raise InputError(f"--drafter-kind must be auto or one of {known}, got {kind!r}")
    return Models(target, drafter, kind)


def _kind_of(drafter: str) -> str:
    """A draft model's kind: its weights tell; of an id of the hub, its name alone is known."""
    folder = Path(drafter)
    if not folder.is_dir():
        return "eagle3" if "eagle3" in drafter.lower().replace("-", "") else "eagle"
    if (kind := kind_of(drafter)) != "eagle":
        return kind
    _, weights = read_head(folder)
    # EAGLE-1 and 2 read a feature and an embedding, EAGLE-3 features of three layers.
    width, inputs = weights["fc.weight"].shape
    return "eagle" if inputs == 2 * width else "eagle3"


def _to_folder(spec: str, out: Path | None) -> dict[str, Any]:
    if out is None:
        raise InputError("--out must name the folder that the policy is written to")
    with argument("--out", str(out), "a folder that can be written, new or empty", OSError):
        files = write_policy(out, spec)
    get_policy(str(out))
    return {"out": str(out), "files": [str(path) for path in files]}


def _write(out: Path | None, exported: dict[str, Any]) -> dict[str, Any]:
    """The configuration and the command as files, where a folder is named for them."""
    if out is None:
        return {}
    must = "a folder that can be written, new, empty or of an export"
    with argument("--out", str(out), must, (OSError, ValueError)):
        if out.exists() and any(out.iterdir()) and not (out / "command.sh").is_file():
            raise ValueError("it holds files of something else: they are kept")
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(exported["config"], indent=1) + "\n")
        (out / "command.sh").write_text(exported["command"] + "\n")
    return {"out": str(out)}
