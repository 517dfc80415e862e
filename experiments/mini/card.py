"""`mini`'s card and attribution: data, command, losses, acceptance."""

from typing import Any

from experiments.mini.acceptance import TokensPerRound
from experiments.mini.sources import SOURCES

COMMAND = "python -m experiments.mini --data DATA --out OUT"


def attribution() -> str:
    """Who wrote what `mini` learned from, for the licences that ask for it."""
    lines = [
        "# Attribution",
        "",
        "The weights are Apache-2.0. They were trained on text of the sources below, and "
        "`prompts.jsonl` holds prompts of their held-out records.",
        "",
        "| source | repository | commit | licence | attribution |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.name} | https://github.com/{s.origin} | `{s.commit}` | {s.licence} "
        f"| {s.attribution} |"
        for s in SOURCES
    ]
    lines += ["", "Changes: records were rendered as chats, cut and mixed.", ""]
    return "\n".join(lines)


def card(report: dict[str, Any], acceptance: TokensPerRound) -> str:
    """`README.md` of the bundled model, from what the stages reported."""
    shares = ", ".join(f"{s.name} {s.share:.0%}" for s in SOURCES)
    return f"""# mini

A small real model for demonstrations and tests: a target of {report["target_parameters"]:,} \
parameters, an EAGLE head for it and a small draft language model. It knows the style of its \
sources and little else; nothing it says should be relied on.

* **Command**: `{COMMAND}`
* **Data**: {report["stream_tokens"]:,} tokens of a mixture ({shares}); licences and authors in \
`ATTRIBUTION.md`.
* **Target**: {report["target_steps"]:,} steps of 8 x 512 tokens; held-out loss \
{report["target_loss"]:.3f} nats a token.
* **EAGLE head**: {report["head_steps"]:,} steps on {report["own_tokens"]:,} tokens, \
questions and the target's own greedy answers; on held-out answers top-1 agreement \
{report["head_agreement"]:.3f}, greedy chains of 5 have {report["head_accepted"]:.2f} \
tokens accepted.
* **Draft model**: {report["draft_steps"]:,} steps on the mixture and the target's own text; \
held-out loss {report["draft_loss"]:.3f} nats a token.
* **Weights**: bfloat16 files, loaded in float32. Apache-2.0.

## Tokens a round

Temperature 0, on `prompts.jsonl`, {report["max_new_tokens"]} new tokens a turn.

{_table(acceptance)}
"""


def _table(acceptance: TokensPerRound) -> str:
    arms = list(acceptance)
    sources = sorted(next(iter(acceptance.values())), key=lambda source: source == "all")
    lines = [
        "| source | " + " | ".join(arms) + " |",
        "|---|" + "--:|" * len(arms),
    ]
    lines += [
        f"| {source} | " + " | ".join(f"{acceptance[arm][source]:.2f}" for arm in arms) + " |"
        for source in sources
    ]
    return "\n".join(lines)
