"""The command `adaeagle`: its subcommands, and the one place where wrong input ends.

Heavy imports live inside the subcommands, so that `--help` is quick.
"""

import io
import logging
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, cast

import typer
import yaml

from experiments import options
from experiments.commands import (
    audit,
    compare,
    confirm,
    demo,
    drafters,
    evaluate_predictor,
    export,
    fetch,
    generate,
    policies,
    profile,
    replay,
    report,
    study,
    sweep,
    trace,
    train_head,
    train_predictor,
)
from experiments.errors import InputError, argument

WRONG_INPUT, INTERRUPTED = 2, 130
LIST_OPTIONS = (
    "--policies",
    "--envelope",
    "--widths",
    "--nodes",
    "--contexts",
    "--batch-sizes",
)
"""Options that take any number of values."""

# typer keeps its exceptions in click or in a copy of click, by release; both have this base.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="Adaptive drafting for speculative decoding: compare policies on one lossless core.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "demo": (demo.demo, demo.EXAMPLE),
    "compare": (compare.compare, compare.EXAMPLE),
    "generate": (generate.generate, generate.EXAMPLE),
    "audit": (audit.audit, audit.EXAMPLE),
    "trace": (trace.trace, trace.EXAMPLE),
    "replay": (replay.replay, replay.EXAMPLE),
    "report": (report.report, report.EXAMPLE),
    "profile": (profile.profile, profile.EXAMPLE),
    "sweep": (sweep.sweep, sweep.EXAMPLE),
    "confirm": (confirm.confirm, confirm.EXAMPLE),
    "study": (study.study, study.EXAMPLE),
    "export": (export.export, export.EXAMPLE),
    "fetch": (fetch.fetch, fetch.EXAMPLE),
    "policies": (policies.policies, policies.EXAMPLE),
    "drafters": (drafters.drafters, drafters.EXAMPLE),
    "train-head": (train_head.train_head, train_head.EXAMPLE),
    "train-predictor": (train_predictor.train_predictor, train_predictor.EXAMPLE),
    "evaluate-predictor": (evaluate_predictor.evaluate_predictor, evaluate_predictor.EXAMPLE),
}
for name, (command, example) in COMMANDS.items():
    app.command(name, epilog=example)(options.with_blocks(command))


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show logs, and where an error comes from.")
    ] = False,
    config: Annotated[
        str | None,
        typer.Option(
            help="Take options from the run.yaml that a run wrote; those given count more.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Options before a command's name; --config is read before all others."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for wrong input, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not know every character
            stream.reconfigure(errors="replace")
    first = given[: next((i for i, each in enumerate(given) if each in COMMANDS), len(given))]
    if "--version" in first:
        print(f"adaeagle {metadata.version('adaeagle')}")
        return 0
    if is_verbose := bool({"-v", "--verbose"}.intersection(first)):
        logging.basicConfig(level=logging.INFO)
    try:
        given = with_config(given)
        code = app(_one_value_each(given), prog_name="adaeagle", standalone_mode=False)
    except InputError as error:
        if is_verbose:
            traceback.print_exc()
        return _refuse(str(error))
    except UsageError as error:
        message = cast(typer.BadParameter, error).format_message()
        return _refuse(re.sub(r"^Invalid value for '(\S+)': must", r"\1 must", message))
    except KeyboardInterrupt:
        return INTERRUPTED
    return code or 0


def with_config(arguments: list[str]) -> list[str]:
    """The arguments, with the options of `--config FILE` before those that are given.

    Raises:
        InputError: the file was not written by a run, or by another command's.
    """
    if "--config" not in arguments[:-1]:
        return arguments
    place = arguments.index("--config")
    path, rest = arguments[place + 1], [*arguments[:place], *arguments[place + 2 :]]
    with argument("--config", path, "the run.yaml of a run"):
        kept = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        name, options, places = kept["command"], kept["options"], kept["arguments"]
    others = [each for each in rest if each in COMMANDS]
    if others and others[0] != name:
        raise InputError(f"--config must be of {others[0]!r}, got one of {name!r}")
    before, after = rest, []
    if others:
        cut = rest.index(name)
        before, after = rest[:cut], rest[cut + 1 :]
    has_places = bool(after) and not after[0].startswith("-")
    tokens = [
        token
        for option, value in options.items()
        if f"--{option}" not in after
        for token in _tokens(option, value)
    ]
    return [*before, name, *([] if has_places else places), *tokens, *after]


def _tokens(option: str, value: Any) -> list[str]:
    """One option as it is typed."""
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    values = value if isinstance(value, list) else [value]
    return [token for each in values for token in (f"--{option}", str(each))]


def _refuse(reason: str) -> int:
    print(f"adaeagle: {' '.join(reason.split())}", file=sys.stderr)
    return WRONG_INPUT


def _one_value_each(arguments: list[str]) -> list[str]:
    """Repeats a list option before each of its values, which is how typer reads lists."""
    repeated: list[str] = []
    option = ""
    for token, after in zip(arguments, [*arguments[1:], "-"], strict=True):
        if token in LIST_OPTIONS and not after.startswith("-"):
            option = token
        elif option and not token.startswith("-"):
            repeated += [option, token]
        else:
            option = ""
            repeated.append(token)
    return repeated


if __name__ == "__main__":
    sys.exit(main())
