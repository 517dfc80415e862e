"""`adaeagle demo`: a comparison on the bundled model, with nothing to choose."""

from pathlib import Path

from experiments.commands import options

EXAMPLE = """Example:

adaeagle demo

An interrupted demo goes on where it was; a finished one is measured again."""

THREADS = 1
"""Operations as small as this model's are slower on two threads than on one."""

LEARNED = ("ldlp", "cost_aware")
"""AdaEAGLE's own rule and ours, with the bundled model's predictors and cost table."""

NUM_PROMPTS = 24
MAX_NEW_TOKENS = 128


def demo(
    threads: options.Threads = None,
    out: options.Out = Path("runs/demo"),
    as_json: options.Json = False,
) -> None:
    """Compare ten policies on the bundled model and prompts, in about two minutes."""
    from experiments.commands.models import ModelOptions
    from experiments.runs import compare as comparison

    settings = comparison.Settings(
        models=ModelOptions(threads=threads or THREADS),
        policies=(*comparison.POLICIES, *LEARNED),
        limit=NUM_PROMPTS,
        max_new_tokens=MAX_NEW_TOKENS,
        out=out,
    )
    comparison.compare(settings, as_json=as_json, anew=True)
