"""`mini`'s card and attribution: data, command, losses, acceptance."""

from importlib.resources import files
from typing import Any

from experiments.mini.acceptance import TokensPerRound
from experiments.mini.sources import SOURCES

COMMAND = "python -m experiments.mini --data DATA --out OUT"
ATTRIBUTION = """# Attribution

The weights are Apache-2.0. They were trained on text of the sources below, and `prompts.jsonl` \
holds prompts of their held-out records.

| source | repository | commit | licence | attribution |
|---|---|---|---|---|
{rows}

Changes: records were rendered as chats, cut and mixed.
"""


def attribution() -> str:
    """Who wrote what `mini` learned from, for the licences that ask for it."""
    row = (
        "| {0.name} | https://github.com/{0.origin} | `{0.commit}` | {0.licence} "
        "| {0.attribution} |"
    )
    return ATTRIBUTION.format(rows="\n".join(row.format(source) for source in SOURCES))


def card(report: dict[str, Any], acceptance: TokensPerRound) -> str:
    """`README.md` of the bundled model, from what the stages reported."""
    shares = ", ".join(f"{s.name} {s.share:.0%}" for s in SOURCES)
    page = (files("experiments.mini") / "card.md").read_text(encoding="utf-8")
    return page.format(**report, command=COMMAND, shares=shares, table=_table(acceptance))


def _table(acceptance: TokensPerRound) -> str:
    arms = list(acceptance)
    sources = sorted(next(iter(acceptance.values())), key=lambda source: source == "all")
    rows = [["source", *arms], ["---", *["--:"] * len(arms)]]
    rows += [[source, *(f"{acceptance[arm][source]:.2f}" for arm in arms)] for source in sources]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
