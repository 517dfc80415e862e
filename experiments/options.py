"""Options that several subcommands take, each declared once, and blocks of them."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from experiments import early

MODELS, TEXT, RUN = "Models", "Text", "Run"
TRAINING, DEVICES = "Training", "Devices, as in Lightning"


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number that is at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise typer.BadParameter(f"must be a whole number >= {least}, got {text!r}")
        return value

    return parse


def choice(*known: str) -> dict[str, Any]:
    """Arguments of an option that takes one of some words."""

    def parse(text: str) -> str:
        if text not in known:
            raise typer.BadParameter(f"must be one of {', '.join(known)}, got {text!r}")
        return text

    return {"parser": parse, "metavar": "|".join(known)}


def number(text: str) -> float:
    """Reads a number; its range is for the caller to check."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"must be a number, got {text!r}")
    return value


def training_option(
    help: str, panel: str = TRAINING, least: int | None = None
) -> typer.models.OptionInfo:
    """An option of a training; a whole number where `least` is given."""
    if least is None:
        found = typer.Option(help=help, rich_help_panel=panel)
    else:
        parser = whole(least)
        found = typer.Option(help=help, rich_help_panel=panel, parser=parser, metavar="N")
    assert isinstance(found, typer.models.OptionInfo)
    return found


Target = Annotated[
    str,
    typer.Option(
        help="Target model: mini (bundled), smollm2 (see `adaeagle fetch`), a folder, a .gguf "
        "file, or a Hugging Face id.",
        rich_help_panel=MODELS,
    ),
]
Drafter = Annotated[
    str | None,
    typer.Option(
        help="A drafter such as ngram(n_max=3), see adaeagle drafters; or the name of a draft "
        "model: mini (bundled EAGLE head), mini-lm (bundled LM), a folder or a Hugging Face id. "
        "Default: the head bundled with the target.",
        metavar="SPEC",
        rich_help_panel=MODELS,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, ... Default: cuda if any.", rich_help_panel=MODELS),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Precision of the target. Default: the checkpoint's own.",
        **choice("float32", "bfloat16", "float16"),
        rich_help_panel=MODELS,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Number of CPU threads. Default: as torch chooses.",
        parser=whole(1),
        metavar="N",
        rich_help_panel=MODELS,
    ),
]
Kernels = Annotated[
    str,
    typer.Option(
        help="Matrix kernels on a CPU; auto takes the faster one for each shape.",
        **choice("auto", "torch", "onednn"),
        rich_help_panel=MODELS,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        help="Most tokens of prompt and answer together. Default: the model's context.",
        parser=whole(2),
        metavar="N",
        rich_help_panel=MODELS,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Branch, tag or commit of the target on the Hugging Face hub.", rich_help_panel=MODELS
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="Spread the target over devices, as in transformers: auto, balanced, ...; in place "
        "of --device.",
        rich_help_panel=MODELS,
    ),
]
Quantization = Annotated[
    str | None,
    typer.Option(
        help="Quantise the target's weights by bitsandbytes.",
        **choice("4bit", "8bit"),
        rich_help_panel=MODELS,
    ),
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        help="Chat template in place of the tokenizer's own: a file, or the template itself.",
        rich_help_panel=MODELS,
    ),
]
PROMPTS = (
    "A file of prompts, - for stdin, or the bundled set mini. JSON Lines or a JSON array with "
    "turns, messages, conversations, prompt or token_ids; or .txt, a prompt a line; also .gz."
)
Prompts = Annotated[str, typer.Option(help=PROMPTS, rich_help_panel=TEXT)]
SkipLong = Annotated[
    bool,
    typer.Option(
        "--skip-long",
        help="Leave out prompts that fill the model's context, in place of refusing them all.",
        rich_help_panel=TEXT,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        help="Use at most this many prompts, taken from each source (or category) in turn.",
        parser=whole(1),
        metavar="N",
        rich_help_panel=TEXT,
    ),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(
        help="Maximum number of tokens of an answer.",
        parser=whole(1),
        metavar="N",
        rich_help_panel=TEXT,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        help="Sampling temperature; 0 always takes the most likely token.",
        parser=number,
        metavar="NUMBER",
        rich_help_panel=TEXT,
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        help="Sample from the most likely tokens whose probabilities sum to this.",
        parser=number,
        metavar="NUMBER",
        rich_help_panel=TEXT,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        help="Sample from this many of the most likely tokens; 0: from all.",
        parser=whole(0),
        metavar="N",
        rich_help_panel=TEXT,
    ),
]
Sampling = Annotated[
    str,
    typer.Option(
        help="How drafts are accepted above temperature 0. With coupled the text depends on "
        "the seed alone, for tests; its speed is not that of sampling.",
        **choice("rejection", "coupled"),
        rich_help_panel=TEXT,
    ),
]
Seed = Annotated[
    int,
    typer.Option(help="Random seed.", parser=whole(0), metavar="N", rich_help_panel=TEXT),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the results; the same command resumes an interrupted run there.",
        rich_help_panel=RUN,
    ),
]
AnyCost = Annotated[
    bool,
    typer.Option("--any-cost", help="Accept a cost table that was measured with other models."),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Begin anew where the folder holds another run, whose results are lost.",
        rich_help_panel=RUN,
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        help="Policy that the others are compared with, prompt by prompt. Default: the fastest "
        "of those whose draft is fixed.",
        metavar="SPEC",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print only one line of JSON to stdout.", rich_help_panel=RUN),
]

# Of a training, as Lightning takes them.
Accelerator = Annotated[str, training_option("Kind of device: auto, cpu, gpu, ...", DEVICES)]
Devices = Annotated[str, training_option("Number of devices, or auto.", DEVICES)]
NumNodes = Annotated[int, training_option("Number of machines.", DEVICES, least=1)]
Strategy = Annotated[
    str, training_option("Strategy for several devices: auto, ddp, fsdp, ...", DEVICES)
]
Precision = Annotated[str, training_option("Precision: 32-true, bf16-mixed, ...", DEVICES)]
Logger = Annotated[str, training_option("csv, or tensorboard for that beside it.", RUN)]
Resume = Annotated[bool, training_option("Continue from the last checkpoint in the folder.")]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The options that name models and say how they run."""

    target: Target = "mini"
    drafter: Drafter = None
    device: Device = None
    dtype: Dtype = None
    threads: Threads = None
    kernels: Kernels = "auto"
    max_length: MaxLength = None
    revision: Revision = None
    device_map: DeviceMap = None
    quantization: Quantization = None
    chat_template: ChatTemplate = None


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """The options that decide the distribution of the text."""

    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    sampling: Sampling = "rejection"
    seed: Seed = 0


GIVEN: ContextVar[dict[str, Any]] = ContextVar("given")
"""The command at work and its options, as `run.yaml` keeps them."""


def _as_typed(
    command: str, parameters: Sequence[inspect.Parameter], given: dict[str, Any]
) -> dict[str, Any]:
    """What `--config` reads: every option but those of one run alone."""
    options: dict[str, Any] = {}
    places: list[str] = []
    for parameter in parameters:
        value = given[parameter.name]
        if value in (None, False) and value == parameter.default:
            continue
        values = [str(each) for each in value] if isinstance(value, list) else value
        [kind] = [each for each in parameter.annotation.__metadata__ if hasattr(each, "help")]
        if isinstance(kind, typer.models.ArgumentInfo):
            places += values if isinstance(values, list) else [str(values)]
        elif parameter.name not in ("out", "overwrite", "as_json"):
            is_plain = isinstance(values, bool | int | float | list)
            options[parameter.name.replace("_", "-")] = values if is_plain else str(values)
    return {"command": command.replace("_", "-"), "arguments": places, "options": options}


def with_blocks(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose arguments that are blocks of options are given option by option."""
    hints = get_type_hints(function, include_extras=True)
    blocks: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    options = [
        parameter.replace(annotation=hints[parameter.name])
        for parameter in inspect.signature(function).parameters.values()
    ]
    for name, block in blocks.items():
        place = next(i for i, option in enumerate(options) if option.name == name)
        options[place : place + 1] = inspect.signature(block).parameters.values()
    named = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]

    @functools.wraps(function)
    def run(**given: Any) -> None:
        early.check(given)
        gathered = {
            name: block(**{field.name: given[field.name] for field in fields(block)})
            for name, block in blocks.items()
        }
        inside = {field.name for block in blocks.values() for field in fields(block)}
        GIVEN.set(_as_typed(function.__name__, named, given))
        function(**{name: given[name] for name in given if name not in inside}, **gathered)

    run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {option.name: option.annotation for option in named}
    return run
