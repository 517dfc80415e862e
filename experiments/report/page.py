"""The page: one HTML file with its style, script, pictures and data in it.

Prompts and answers are anybody's text. The template escapes what it prints, the data escapes what
could end its element, the script builds nodes and never markup, and the page's own policy forbids
every script but ours and everything from outside.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adaeagle.data.prompts import grouping
from experiments.report.explorer import Explored
from experiments.report.figures import pictures
from experiments.report.finished import Finished
from experiments.report.overview import ladders, policy_table
from experiments.views.tables import divergence_line

SCRIPTS = ("tree.js", "explorer.js")
TEMPLATES = files("experiments.report") / "templates"


def render(run: Finished, explored: Explored | str) -> str:
    """The whole page.

    Args:
        run: what it is about.
        explored: its explorer, or the reason why it has none.
    """
    by = grouping(run.records)
    script = "".join(own(name) for name in SCRIPTS)
    return (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            results=run.results,
            config=run.config,
            machine=machine(run.results["hardware"]),
            clock=_clock(run),
            notes=_notes(run),
            about=_about(run),
            table=policy_table(run),
            ladders=ladders(run),
            pictures=pictures(run.records, by),
            explored=None if isinstance(explored, str) else explored,
            without=explored if isinstance(explored, str) else None,
            data=None if isinstance(explored, str) else as_data(explored.data),
            style=Markup(own("report.css")),
            script=Markup(script),
            script_hash=_hash(script),
        )
    )


def environment() -> Environment:
    """Where templates come from: what they print is escaped."""
    return Environment(
        loader=PackageLoader("experiments.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def as_data(value: Any) -> Markup:
    """JSON that cannot end, or begin, an element of the page it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def own(name: str) -> str:
    """A file of ours that goes into a page as it is."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """What a Content-Security-Policy calls an inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def machine(hardware: dict[str, Any]) -> str:
    """What ran, in few words."""
    threads = hardware.get("threads")
    name = hardware.get("gpu") or hardware.get("cpu") or "an unnamed machine"
    if hardware.get("gpu") or threads is None:
        return str(name)
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def _clock(run: Finished) -> str:
    """Whence the seconds come."""
    if not run.is_replay:
        return f"Measured on {machine(run.results['hardware'])}."
    about = run.config["cost_about"]
    where = machine(about.get("hardware", {}))
    when = f", measured {str(about['date'])[:10]}" if "date" in about else ""
    return f"Replayed from a trace; seconds are those of a cost table of {where}{when}."


def _notes(run: Finished) -> list[str]:
    """What must be said beside the numbers."""
    config, results = run.config, run.results
    notes = []
    if run.is_replay:
        missing = sum(results.get("num_missing", {}).values())
        if missing:
            notes.append(f"{missing} nodes were not recorded; the real draft model drafted them.")
    else:
        if config.get("sampling") == "coupled":
            notes.append("Coupled sampling accepts less: these are not the speeds of sampling.")
        if config.get("temperature") == 0 or config.get("sampling") == "coupled":
            line = divergence_line(run.records)
            notes.append(f"{line[0].upper()}{line[1:]}.")
    return notes


def _about(run: Finished) -> list[tuple[str, str]]:
    """Where the results come from, for whoever wants to make them again."""
    results, config = run.results, run.config
    git = results["git"]
    commit = "" if git is None else git["commit"][:12] + (", changed since" if git["dirty"] else "")
    facts: Sequence[tuple[str, Any]] = (
        ("folder", run.path),
        ("prompts, SHA-256", results["prompts_sha256"]),
        ("trace", config.get("trace")),
        ("cost table", config.get("cost")),
        ("hardware", ", ".join(f"{key} {value}" for key, value in results["hardware"].items())),
        ("versions", ", ".join(f"{key} {value}" for key, value in results["versions"].items())),
        ("commit", commit),
    )
    return [(name, str(value)) for name, value in facts if value]
