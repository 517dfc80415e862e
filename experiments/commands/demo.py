"""`adaeagle demo`: a comparison on the bundled model, with nothing to choose."""

from pathlib import Path

from experiments import options

EXAMPLE = """Example:

adaeagle demo

An interrupted demo goes on where it was; a finished one is measured again."""


def demo(
    threads: options.Threads = None,
    out: options.Out = Path("runs/demo"),
    as_json: options.Json = False,
) -> None:
    """Compare ten policies on the bundled model and prompts, in about two minutes."""
    from experiments.commands.compare import show_comparison
    from experiments.runs import compare as comparison
    from experiments.runs.models import ModelOptions

    settings = comparison.CompareSettings(
        models=ModelOptions(threads=threads or comparison.DEMO_THREADS),
        policies=(*comparison.POLICIES, *comparison.LEARNED),
        limit=comparison.DEMO_NUM_PROMPTS,
        max_new_tokens=comparison.DEMO_MAX_NEW_TOKENS,
        out=out,
    )
    show_comparison(comparison.compare(settings, anew=True), as_json=as_json)
