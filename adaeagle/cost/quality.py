"""Whether a measured cost table can be relied on: it says so itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from adaeagle.cost.model import CostModel
from adaeagle.cost.table import Table

MOST_BETWEEN_HALVES = 0.05
MOST_SPREAD = 0.3
MOST_FALL = 0.12


@dataclass(frozen=True, slots=True)
class Quality:
    """What a table's own samples tell of it; shares, 0 is perfect."""

    is_good: bool
    why: str  # a clause
    between_halves: float | None  # how far two halves of the samples are apart, typically
    spread: float  # the middle half of a cell's samples, typically, as a share of its median
    worst_fall: float  # how much less time more work takes, at most

    @classmethod
    def of(cls, model: CostModel, halves: Sequence[CostModel]) -> "Quality":
        """The quality of a table.

        Args:
            model: of all samples.
            halves: of every other sample, and of the rest; fewer than two: they are too few.
        """
        tables = list(_tables(model))
        spread = median(
            float(value)
            for table in tables
            for value in ((table.high - table.low) / table.median.clamp(min=1e-9)).flatten()
        )
        worst_fall = max(_worst_fall(table) for table in tables)
        apart = _apart(*halves) if len(halves) == 2 else None
        reasons = []
        if apart is None:
            reasons.append("it has too few samples to compare two halves of them")
        elif apart > MOST_BETWEEN_HALVES:
            reasons.append(f"two halves of its samples differ by {apart:.0%}")
        if spread > MOST_SPREAD:
            reasons.append(f"samples of one cell spread over {spread:.0%} of their median")
        if worst_fall > MOST_FALL:
            reasons.append(f"more work takes up to {worst_fall:.0%} less time")
        why = " and ".join(reasons) or f"two halves of its samples differ by {apart:.1%}"
        return cls(not reasons, why, apart, spread, worst_fall)


def _tables(model: CostModel) -> Iterator[Table]:
    """Those that decide how much to draft."""
    for parts in (model.chain, model.tree):
        yield from (parts.next, parts.verify)


def _apart(first: CostModel, second: CostModel) -> float | None:
    pairs = list(zip(_tables(first), _tables(second), strict=True))
    if any(one.median.shape != other.median.shape for one, other in pairs):
        return None  # a cell was measured in one half alone
    ratios = [
        (one.median / other.median.clamp(min=1e-9)).log().abs().flatten() for one, other in pairs
    ]
    return median(float(value) for values in ratios for value in values)


def _worst_fall(table: Table) -> float:
    """From one size to the next, at any context."""
    if len(table.sizes) < 2:
        return 0.0
    falls = 1 - table.median[1:] / table.median[:-1].clamp(min=1e-9)
    return max(0.0, float(falls.max()))
