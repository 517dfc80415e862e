"""`adaeagle compare`: policies against each other and against plain decoding."""

from typing import Annotated

import typer

from experiments.commands import options

EXAMPLE = """Example:

adaeagle compare --policies "chain(length=4)" eagle2 --limit 8 --out runs/first

The folder gets results.json, config.json, records.jsonl (a line a prompt) and PNG pictures."""


def compare(
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Policies by name, with arguments as in Python; see `adaeagle policies`. vanilla "
            "is always one of them. Default: a list from short chains to EAGLE-2's full tree.",
            metavar="SPEC SPEC ...",
        ),
    ] = None,
    target: options.Target = "mini",
    drafter: options.Drafter = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    kernels: options.Kernels = "auto",
    prompts: options.Prompts = "mini",
    limit: options.Limit = None,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    sampling: options.Sampling = "rejection",
    seed: options.Seed = 0,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration",
            help="Decode once more, untimed, and draw how often drafted tokens are accepted "
            "against the draft model's confidence.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Measure policies on the same prompts, interleaved, against plain decoding."""
    from experiments.commands.models import ModelOptions
    from experiments.runs import compare as comparison

    settings = comparison.Settings(
        models=ModelOptions(target, drafter, device, dtype, threads, kernels),
        policies=policies or comparison.POLICIES,
        prompts=prompts,
        limit=limit,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        sampling=sampling,
        seed=seed,
        calibration=calibration,
        out=out,
    )
    comparison.compare(settings, as_json=as_json)
