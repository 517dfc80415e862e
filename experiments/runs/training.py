"""What both trainings do alike: their options are checked first, then Lightning runs."""

import contextlib
import sys
from collections.abc import Callable, Container, Iterator
from typing import Any

import lightning
from lightning.pytorch.utilities import rank_zero_only

from experiments.errors import InputError, argument

LIGHTNING = ("accelerator", "devices", "num_nodes", "strategy", "precision")


@contextlib.contextmanager
def settings_blamed(names: Container[str]) -> Iterator[None]:
    """An error that begins with the name of a setting is blamed on its option.

    Raises:
        InputError: in place of that error.
    """
    try:
        yield
    except ValueError as error:
        name, _, rule = str(error).partition(" ")
        if name not in names:
            raise
        raise InputError(f"--{name.replace('_', '-')} {rule}") from error


def check_out(settings: Any) -> None:
    """Refuses a folder that cannot be written."""
    with argument("--out", str(settings.out), "a folder that can be written", OSError):
        settings.out.mkdir(parents=True, exist_ok=True)


def run_lightning(settings: Any, train: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Checks the devices and trains.

    Lightning writes to stdout, which is for the result: its messages go to stderr.

    Args:
        settings: holds `LIGHTNING`.
        train: returns the result.

    Returns:
        The result; None in the processes that help the first.

    Raises:
        InputError: these devices cannot be used.
    """
    chosen = {name: getattr(settings, name) for name in LIGHTNING}
    shown = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in chosen.items())
    with contextlib.redirect_stdout(sys.stderr):
        with argument("the devices", shown):
            lightning.Trainer(**chosen, logger=False, enable_checkpointing=False)
        try:
            result = train()
        except SystemExit as stopped:  # how Lightning ends after Ctrl-C
            raise KeyboardInterrupt from stopped
    is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    return result if is_first else None
