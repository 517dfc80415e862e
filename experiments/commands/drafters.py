"""`adaeagle drafters`: what is registered, with arguments and sources."""

import json
from typing import Annotated

import typer

from experiments import options
from experiments.commands.policies import describe, print_table
from experiments.errors import argument

EXAMPLE = """Example:

adaeagle drafters

adaeagle drafters ngram

A name with arguments makes a SPEC for --drafter, such as "ngram(n_max=3)"; the plain name of a
draft model, such as mini, is short for "pretrained(name='mini')"."""


def drafters(
    name: Annotated[str | None, typer.Argument(help="One of them alone.", metavar="[NAME]")] = None,
    as_json: options.Json = False,
) -> None:
    """List the registered drafters."""
    from adaeagle.registry import DRAFTERS, lookup, names

    rows = []
    for each in names(DRAFTERS) if name is None else [name]:
        with argument("the registered drafter", each):
            # What it drafts for, its first argument, is the command's --target.
            rows.append(describe(each, lookup(each, DRAFTERS), "drafter", num_given=1))
    if as_json:
        print(json.dumps(rows))
    else:
        print_table(rows)
