"""Names that the project does not use, since readers of the field know other words for them.

Run by the lint step. Only names are looked at: of files, modules, classes, functions, arguments,
attributes and variables, split at underscores and capitals. Prose is for readers' eyes.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("adaeagle", "policies", "predictors", "experiments")

INSTEAD = {
    "law": "distribution, probs",
    "laws": "distributions, probs",
    "said": "target_token_ids, message, output",
    "told": "payload, settings",
    "asked": "requested, needed",
    "asking": "scoring, suggesting",
    "asker": "suggester",
    "prices": "costs",
    "again": "replayed, repeated",
    "judge": "evaluate",
    "judging": "evaluation",
    "kin": "family",
    "anatomy": "spec",
    "worth": "rate, tokens_per_second",
}
"""Each word, and what to say in its place."""


def names(file: Path) -> Iterator[tuple[int, str]]:
    """Every name that a file gives to something, with its line."""
    yield 1, file.stem
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


def words(name: str) -> list[str]:
    """The words of a name: `numAsked_twice` → num, asked, twice."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")


def main() -> int:
    found = sorted(
        {
            f"{file.relative_to(ROOT)}:{line}: {name}: for {word!r} use {INSTEAD[word]}"
            for package in PACKAGES
            for file in (ROOT / package).rglob("*.py")
            for line, name in names(file)
            for word in words(name)
            if word in INSTEAD
        }
    )
    print(*found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
