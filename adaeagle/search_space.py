"""What of a policy may be tuned, and within which bounds: declared beside it, read by sweeps.

A policy or stop rule names arguments of its constructor in `search_space` and gives each one a
dimension. What is not named keeps the constructor's default.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Int:
    """A whole number, both bounds included."""

    low: int
    high: int
    log: bool = False  # ratios matter, not differences

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high, self.log)


@dataclass(frozen=True, slots=True)
class Float:
    """A number, both bounds included."""

    low: float
    high: float
    log: bool = False  # ratios matter, not differences

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high, self.log)


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of some values, without an order; any that a spec can say."""

    options: tuple[object, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("options must hold at least one value, got none")


@dataclass(frozen=True, slots=True)
class StopRuleChoice:
    """A stop rule, with the rule's own search space; none where a sweep is not told to try some."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A static tree: one that has a name, or the one that is best on the texts at hand.

    The latter is the tree of at most so many nodes and levels that accepts most in the mean.
    """

    named: tuple[str, ...]
    nodes: Int
    depth: Int


Dimension = Int | Float | Categorical | StopRuleChoice | Tree
SearchSpace = Mapping[str, Dimension]


def _check_bounds(low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ValueError(f"low must be finite and <= high, got {low} and {high}")
    if log and low <= 0:
        raise ValueError(f"low must be > 0 on a logarithmic scale, got {low}")
