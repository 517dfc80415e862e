"""Optuna's samplers and pruners by name."""

import warnings
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

SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "grid", "random")
PRUNERS = ("wilcoxon", "none")
ONE_OBJECTIVE = ("cmaes",)

P_THRESHOLD = 0.05
FEWEST_PROMPTS = 6
"""To judge by: of so many, all slower has a chance of 1 in 64."""


def make_sampler(name: str, seed: int) -> BaseSampler:
    """The sampler of that name.

    Raises:
        ImportError: it needs a package that is not installed.
        ValueError: there is none of that name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match name:
            case "tpe":
                # Arguments that occur together are drawn together; running trials are kept away.
                return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
            case "gp":
                return GPSampler(seed=seed, deterministic_objective=True)
            case "cmaes":
                _check_cmaes()
                return CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case "nsga2":
                return NSGAIISampler(seed=seed)
            case "grid":
                return BruteForceSampler(seed=seed)
            case "random":
                return RandomSampler(seed=seed)
    raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")


def _check_cmaes() -> None:
    if find_spec("cmaes") is None:
        raise ImportError("cmaes needs the package cmaes: pip install 'adaeagle[sweep]'")


def make_pruner(name: str) -> BasePruner:
    """The pruner of that name.

    Raises:
        ValueError: there is none.
    """
    if name == "none":
        return NopPruner()
    if name == "wilcoxon":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return WilcoxonPruner(p_threshold=P_THRESHOLD, n_startup_steps=FEWEST_PROMPTS)
    raise ValueError(f"pruner must be one of {', '.join(PRUNERS)}, got {name!r}")


def silence() -> None:
    """Keeps Optuna's log off the terminal: a bar and a table say the same."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
