"""Refusals of numbers that are out of their range, each by the name of the argument."""


def at_least(least: float, **values: float) -> None:
    """Raises ValueError unless every value is `least` or more."""
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be >= {least}, got {value}")


def above(bound: float, **values: float) -> None:
    """Raises ValueError unless every value is more than `bound`."""
    for name, value in values.items():
        if not value > bound:
            raise ValueError(f"{name} must be > {bound}, got {value}")


def in_unit(*, with_one: bool = True, **values: float) -> None:
    """Raises ValueError unless every value is in [0, 1], or in [0, 1) without the one."""
    for name, value in values.items():
        if not 0 <= value <= 1 or (value == 1 and not with_one):
            raise ValueError(f"{name} must be in [0, 1{']' if with_one else ')'}, got {value}")
