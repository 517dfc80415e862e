"""What a study does: which predictors and policies there are for it, how it spends its time."""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adaeagle.registry import PREDICTORS, get_policy, lookup, names
from experiments.errors import reason
from experiments.runs.models import ModelOptions
from experiments.sweep.template import parse

TRIALS = 100
MAX_NEW_TOKENS = 256
LEAST_SECONDS = 1.0  # of a stage, or of a part of one, however late it is


@dataclass(frozen=True, slots=True)
class StudySettings:
    """Settings of a study."""

    out: Path
    models: ModelOptions = field(default_factory=ModelOptions)
    prompts: str = "mini"
    limit: int | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    policies: Sequence[str] | None = None  # None: everything registered that can be tuned
    trials: int = TRIALS  # of each family
    time_budget: float | None = None  # minutes
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Policies:
    """Templates to sweep by the names of their folders, and what had to be left out."""

    templates: dict[str, str]
    left_out: list[str]


def predictor_kinds() -> list[str]:
    """The predictors that registered policies ask: those that their defaults are bundled ones of.

    A policy whose `predictor` is `mini/ldlp` where nothing is given wants one of kind `ldlp`.
    """
    known = names(PREDICTORS)
    kinds = (_predictor_kind(name) for name in names())
    return list(dict.fromkeys(kind for kind in kinds if kind in known))


def _predictor_kind(name: str) -> str:
    parameter = _parameters(name).get("predictor")
    default = None if parameter is None else parameter.default
    return default.rpartition("/")[2] if isinstance(default, str) else ""


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(lookup(name)).parameters
    except (ImportError, ValueError):
        return {}  # it cannot be loaded: `tunable` says so


def tunable(predictors: Mapping[str, Path], cost: Path) -> Policies:
    """Every registered policy and stop rule that declares a search space, as a template.

    Those that ask a predictor or a cost table get the study's own.

    Args:
        predictors: folders of those that were trained, by kind.
        cost: file of the machine's cost table.
    """
    found = Policies({}, [])
    for name in names():
        try:
            if not getattr(lookup(name), "search_space", None):
                continue
            text = _template(name, predictors, cost)
            parse(text)
            get_policy(text)
        except (ImportError, ValueError, OSError) as error:
            found.left_out.append(f"{name}: {reason(error)}")
            continue
        found.templates[name] = text
    return found


def _template(name: str, predictors: Mapping[str, Path], cost: Path) -> str:
    parameters, given = _parameters(name), []
    if "predictor" in parameters:
        kind = _predictor_kind(name)
        if kind not in predictors:
            raise ValueError(f"no predictor {kind or 'of its own'} was trained")
        given.append(f"predictor={str(predictors[kind])!r}")
    if "cost" in parameters:
        given.append(f"cost={str(cost)!r}")
    return f"{name}({', '.join(given)})" if given else name


class TimeBudget:
    """Divides what is left of the time among the stages that are left.

    Args:
        minutes: of all; None: there is no limit.
        shares: of each stage, in any unit.
        clock: seconds.
    """

    def __init__(
        self,
        minutes: float | None,
        shares: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shares = dict(shares)
        self._clock = clock
        self._end = None if minutes is None else clock() + 60 * minutes

    def skip(self, stage: str) -> None:
        """Leaves a stage's share to the others."""
        del self._shares[stage]

    def begin(self, stage: str) -> float | None:
        """The seconds that a stage has from now on; None: as many as it takes."""
        left = self.left
        share = self._shares.pop(stage)
        if left is None:
            return None
        return max(LEAST_SECONDS, left * share / (share + sum(self._shares.values())))

    @property
    def left(self) -> float | None:
        """Seconds."""
        return None if self._end is None else self._end - self._clock()


def each(seconds: float | None, began: float, num_left: int) -> float | None:
    """What the next one of several equal parts of a stage has of its seconds."""
    if seconds is None:
        return None
    return max(LEAST_SECONDS, (began + seconds - time.monotonic()) / num_left)


def described(settings: StudySettings) -> dict[str, Any]:
    """What decides what a study finds, as its folder says it: all but where and how long."""
    found = asdict(settings)
    for name in ("out", "time_budget"):
        del found[name]
    return {**found.pop("models"), **found}
