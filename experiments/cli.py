"""The command `adaeagle`: its subcommands, and the one place where wrong input ends.

Heavy imports live inside the subcommands, so that `--help` is quick.
"""

import sys
from collections.abc import Callable, Sequence
from typing import cast

import typer

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
from experiments.errors import InputError

WRONG_INPUT, INTERRUPTED = 2, 130
LIST_OPTIONS = ("--policies", "--envelope", "--widths", "--nodes", "--contexts")
"""Options that take any number of values."""

# typer keeps its exceptions in click or in a copy of click, by release; both have this base.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="Adaptive drafting for speculative decoding: compare policies on one lossless core.",
    no_args_is_help=True,
    add_completion=False,
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
    app.command(name, epilog=example)(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for wrong input, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(_one_value_each(given), prog_name="adaeagle", standalone_mode=False)
    except InputError as error:
        return _refuse(str(error))
    except UsageError as error:
        return _refuse(cast(typer.BadParameter, error).format_message())
    except KeyboardInterrupt:
        return INTERRUPTED
    return code or 0


def _refuse(reason: str) -> int:
    print(f"adaeagle: {' '.join(reason.split())}", file=sys.stderr)
    return WRONG_INPUT


def _one_value_each(arguments: list[str]) -> list[str]:
    """Repeats a list option before each of its values, which is how typer reads lists."""
    repeated: list[str] = []
    option = ""
    for argument, after in zip(arguments, [*arguments[1:], "-"], strict=True):
        if argument in LIST_OPTIONS and not after.startswith("-"):
            option = argument
        elif option and not argument.startswith("-"):
            repeated += [option, argument]
        else:
            option = ""
            repeated.append(argument)
    return repeated


if __name__ == "__main__":
    sys.exit(main())
