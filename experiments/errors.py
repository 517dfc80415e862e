"""Wrong input: one line that says which argument, what it must be and what it was."""

from collections.abc import Iterator
from contextlib import contextmanager

Errors = type[Exception] | tuple[type[Exception], ...]
LONGEST_REASON = 400


class InputError(Exception):
    """The user's input cannot be used; its text is one line."""


@contextmanager
def argument(
    name: str, value: object, must: str = "", errors: Errors = Exception
) -> Iterator[None]:
    """Whatever fails inside is blamed on one argument.

    Args:
        name: the option, as the user writes it.
        value: what was given.
        must: what it must be, where the error inside does not say so itself.
        errors: what the argument can be blamed for; anything else is a bug of ours.

    Raises:
        InputError: in place of those errors.
    """
    try:
        yield
    except InputError:
        raise
    except errors as error:
        rule = f" must be {must}, got {value!r}" if must else f" {str(value)!r}"
        raise InputError(f"{name}{rule}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """An error as one line of bearable length."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + " ..."
