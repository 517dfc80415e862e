"""What sweeps found: of each family the best setting, and the best of what was published."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaeagle.data.files import difference
from experiments.errors import InputError, argument

MUST = "the folder of a finished `adaeagle sweep`"


@dataclass(frozen=True, slots=True)
class Family:
    """One template of a sweep. Speeds are replayed tokens per second on the tune split."""

    name: str  # the template
    tuned: str  # spec
    published: str | None  # spec; None: nothing that was published could be replayed
    tuned_speed: float
    published_speed: float | None
    num_trials: int
    sweep: str  # its folder


@dataclass(frozen=True, slots=True)
class Tuned:
    """All families of some sweeps of one trace under one cost table."""

    families: list[Family]
    trace: Path
    trace_sha256: str
    cost: Path
    cost_sha256: str
    sweeps: list[Path]

    @property
    def policies(self) -> list[str]:
        """Every setting once: of each family the tuned one, then the published one."""
        specs = [spec for one in self.families for spec in (one.tuned, one.published)]
        return list(dict.fromkeys(spec for spec in specs if spec is not None))


def read_sweeps(folders: Sequence[Path]) -> Tuned:
    """Reads sweeps; of a family that several have searched, the fastest setting counts.

    Raises:
        InputError: one is no finished sweep, or they are of different traces or cost tables.
    """
    families: dict[str, Family] = {}
    first: dict[str, Any] = {}
    for folder in folders:
        found = _read(folder)
        first = first or found
        for name in ("trace", "cost"):
            given, other = found["identity"][name], first["identity"][name]
            if given != other:
                raise InputError(
                    f"SWEEP {str(folder)!r} must be of the {name} of {str(folders[0])!r}: "
                    f"{difference({name: other}, {name: given})}"
                )
        for family in _families(found, folder):
            known = families.get(family.name)
            if known is None or family.tuned_speed > known.tuned_speed:
                families[family.name] = family
    return Tuned(
        list(families.values()),
        Path(first["trace"]),
        first["identity"]["trace"],
        Path(folders[0]) / "cost.json",
        first["identity"]["cost"],
        list(folders),
    )


def _read(folder: Path) -> dict[str, Any]:
    """`best.json`, and the path of the trace from `config.json`."""
    with argument("SWEEP", str(folder), MUST, (OSError, ValueError, KeyError, TypeError)):
        for name in ("best.json", "config.json", "cost.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"it holds no {name}")
        found: dict[str, Any] = json.loads((folder / "best.json").read_bytes())
        config = json.loads((folder / "config.json").read_bytes())
        return {
            "trace": config["config"]["trace"],
            "identity": found["identity"],
            "families": found["families"],
        }


def _families(found: dict[str, Any], folder: Path) -> list[Family]:
    families = []
    for name, each in found["families"].items():
        best, published = each["best"], each["published"]
        families.append(
            Family(
                name=name,
                tuned=best["policy"],
                published=None if published is None else published["policy"],
                tuned_speed=best["tokens_per_second"],
                published_speed=None if published is None else published["tokens_per_second"],
                num_trials=each["num_trials"],
                sweep=str(folder),
            )
        )
    return families
