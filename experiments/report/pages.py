"""What all pages share: one HTML file with its style, script, pictures and data in it.

Prompts and answers are anybody's text. Templates escape what they print, the data escapes what
could end its element, scripts build nodes and never markup, and a page's own policy forbids every
script but ours and everything from outside.
"""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

EN_DASH, MINUS, TIMES = "\u2013", "\u2212", "\u00d7"
FOLDER = files("experiments.report") / "templates"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that a page carries in itself."""

    alt: str
    source: str  # a data URL


def picture(alt: str, figure: Figure) -> Picture:
    """A figure as vectors, without a background of its own."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "adaeagle"}):  # equal runs give equal bytes
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _embedded(alt, "svg+xml", buffer.getvalue())


def png_picture(alt: str, content: bytes) -> Picture:
    """A picture that lies in a file."""
    return _embedded(alt, "png", content)


def _embedded(alt: str, kind: str, content: bytes) -> Picture:
    return Picture(alt, f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}")


def render_page(
    template: str, *, styles: Sequence[str], scripts: Sequence[str], **shown: Any
) -> str:
    """A whole page.

    Args:
        template: a file of `templates`, as styles and scripts are.
        styles: put after each other.
        scripts: likewise.
        shown: what the template shows.
    """
    environment = Environment(
        loader=PackageLoader("experiments.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "times": lambda value: f"{value:.2f}{TIMES}",
        "interval": lambda ci95: "" if ci95 is None else EN_DASH.join(f"{x:.2f}" for x in ci95),
        "share": share,
        "percent": lambda value, of: f"{100 * value / of:.2f}%",
        "prompts": lambda count: f"{count} prompt{'' if count == 1 else 's'}",
    }
    script = "".join(own_file(name) for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template(template).render(
        style=Markup("".join(own_file(name) for name in styles)),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        **shown,
    )


def own_file(name: str) -> str:
    """A file of ours that goes into a page as it is."""
    return (FOLDER / name).read_text(encoding="utf-8")


def as_data(value: Any) -> Markup:
    """JSON that cannot end, or begin, an element of the page it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def share(value: float | None) -> str:
    """A share of headroom with its sign; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:+.0%}".replace("-", MINUS) if round(100 * value) else "0%"


def machine(hardware: dict[str, Any]) -> str:
    """What ran, in few words."""
    threads = hardware.get("threads")
    name = hardware.get("gpu") or hardware.get("cpu") or "an unnamed machine"
    if hardware.get("gpu") or threads is None:
        return str(name)
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def cost_note(about_cost: dict[str, Any]) -> list[str]:
    """What a cost table's own verdict on itself warns of: a sentence, or nothing."""
    quality = about_cost.get("quality")
    if quality is None or quality["is_good"]:
        return []
    return [f"The cost table is not good enough to rely on: {quality['why']}."]


def about(found: dict[str, Any], **first: Any) -> list[tuple[str, str]]:
    """Where results come from, for whoever wants to make them again.

    Args:
        found: with `prompts_sha256`, `hardware`, `versions` and `git`.
        first: other facts, which come before.
    """
    git = found["git"]
    commit = "" if git is None else git["commit"][:12] + (", changed since" if git["dirty"] else "")
    facts = {
        **first,
        "prompts, SHA-256": found["prompts_sha256"],
        "hardware": ", ".join(f"{key} {value}" for key, value in found["hardware"].items()),
        "versions": ", ".join(f"{key} {value}" for key, value in found["versions"].items()),
        "commit": commit,
    }
    return [(name.replace("_", " "), str(value)) for name, value in facts.items() if value]
