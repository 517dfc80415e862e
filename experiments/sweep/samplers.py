"""Optuna's samplers and pruners by name."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner, WilcoxonPruner
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)

ONE_OBJECTIVE = ("cmaes",)
P_THRESHOLD = 0.05
FEWEST_PROMPTS = 6
"""To judge by: of so many, all slower has a chance of 1 in 64."""

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    # Arguments that occur together are drawn together; running trials are kept away.
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
    "gp": lambda seed: GPSampler(seed=seed, deterministic_objective=True),
    "cmaes": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
    "grid": lambda seed: BruteForceSampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "wilcoxon": lambda: WilcoxonPruner(p_threshold=P_THRESHOLD, n_startup_steps=FEWEST_PROMPTS),
    "none": NopPruner,
}


def make_sampler(name: str, seed: int) -> BaseSampler:
    """The sampler of that name.

    Raises:
        ImportError: it needs a package that is not installed.
        ValueError: there is none of that name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    if name == "cmaes" and find_spec("cmaes") is None:
        raise ImportError("cmaes needs the package cmaes: pip install cmaes")
    with quiet():
        return SAMPLERS[name](seed)


def make_pruner(name: str) -> BasePruner:
    """The pruner of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRUNERS:
        raise ValueError(f"pruner must be one of {', '.join(PRUNERS)}, got {name!r}")
    with quiet():
        return PRUNERS[name]()


def quiet() -> warnings.catch_warnings:
    """Inside, Optuna does not warn of what it calls experimental."""
    return warnings.catch_warnings(action="ignore", category=ExperimentalWarning)


def silence() -> None:
    """Keeps Optuna's log off the terminal: a bar and a table say the same."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
