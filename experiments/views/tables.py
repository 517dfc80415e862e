"""Measured policies as terminal tables."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType

from adaeagle.bench.records import PromptRecord
from adaeagle.bench.results import grouped, num_rounds, summarize
from adaeagle.bench.runner import BASELINE
from experiments.views.sheet import Cell, Sheet, interval, share

MOST_PARTINGS = 20
PARTS = ("draft", "verify", "policy", "other")


def speed_table(records: Sequence[PromptRecord]) -> RenderableType:
    """How fast each policy is."""
    arms = summarize(records)
    best = max(arm.speedup for arm in arms)
    return Sheet(
        "speed",
        arms,
        {"policy": lambda arm: arm.policy},
        {
            "tokens/s": lambda arm: f"{arm.tokens_per_second:.1f}",
            "speed-up": lambda arm: f"{arm.speedup:.2f}x",
            "95 % interval": lambda arm: (
                "-" if arm.policy == BASELINE else interval(arm.speedup_ci95)
            ),
            "tokens\na round": lambda arm: f"{arm.tokens_per_round:.2f}",
        },
        is_bold=lambda arm: arm.speedup == best,
        is_numbered=True,
    )


def round_table(records: Sequence[PromptRecord]) -> RenderableType:
    """What an average round of each policy is made of."""
    rows = [(arm, num_rounds(records, arm.policy)) for arm in summarize(records)]

    def milliseconds(*parts: str) -> Cell:
        def show(row: Any) -> str:
            arm, rounds = row
            return f"{1000 * sum(getattr(arm, f'{part}_seconds') for part in parts) / rounds:.2f}"

        return show

    return Sheet(
        "an average round",
        rows,
        {},
        {
            "draft\nforwards": lambda row: f"{row[0].draft_forwards / row[1]:.1f}",
            "nodes\nverified": lambda row: f"{row[0].verified_nodes / row[1]:.1f}",
            **{f"{part}\nms": milliseconds(part) for part in PARTS},
            "sum\nms": milliseconds(*PARTS),
        },
        is_numbered=True,
    )


def group_table(records: Sequence[PromptRecord], by: str) -> RenderableType:
    """A row for each source or category: tokens a round and speed-up of every drafting policy."""
    rows = [
        (group or "-", len(members), {arm.policy: arm for arm in summarize(members)})
        for group, members in grouped(records, by).items()
    ]

    def column(name: str) -> Cell:
        return lambda row: f"{row[2][name].tokens_per_round:.2f}\n{row[2][name].speedup:.2f}x"

    return Sheet(
        f"tokens a round and speed-up by {by}, policies by their numbers",
        rows,
        {by: lambda row: row[0]},
        {
            "prompts": lambda row: row[1],
            **{
                f"#{number}": column(name)
                for number, name in enumerate(records[0].arms, start=1)
                if name != BASELINE
            },
        },
    )


def headroom_table(found: dict[str, Any]) -> RenderableType:
    """What foresight would win over the best fixed draft, and the share that each policy makes.

    Args:
        found: the whole of `results.json`.
    """
    oracle = found["oracle"]
    families = Sheet(
        f"headroom on the prompts of split {oracle['split']}",
        list(oracle["families"].items()),
        {
            "family": lambda row: row[0],
            "best fixed draft": lambda row: row[1]["baseline"],
            "chosen on": lambda row: row[1]["baseline_chosen_on"],
        },
        {
            "tokens/s": lambda row: f"{row[1]['fixed']:.1f}",
            "greedy": lambda row: f"{row[1]['greedy']:.1f}",
            "dp": lambda row: f"{row[1]['dp']:.1f}",
            "headroom": lambda row: f"{row[1]['headroom']:+.1%}",
        },
    )
    shares = Sheet(
        f"clairvoyant, on what was recorded: {oracle['clairvoyant']:.1f} tokens/s",
        found["arms"],
        {
            "policy": lambda arm: arm["policy"],
            "family": lambda arm: oracle["family_of"][arm["policy"]],
        },
        {
            "tokens/s": lambda arm: f"{arm['tokens_per_second']:.1f}",
            "recovered": lambda arm: share(arm["headroom_recovered"]),
        },
    )
    return Group(families, shares)


def divergence_line(records: Sequence[PromptRecord]) -> str:
    """Whether all policies gave the same text, as they must without sampling."""
    found = [parted for record in records for parted in record.divergences]
    num_answers = sum(record.num_turns * (len(record.arms) - 1) for record in records)
    if not found:
        return f"all {num_answers} answers equal vanilla's, token for token"
    gaps = [parted.top2_gap for parted in found if parted.top2_gap is not None]
    where = f", at gaps of the target's two best logits up to {max(gaps):.1e}" if gaps else ""
    return (
        f"{len(found)} of {num_answers} answers part from vanilla's{where}: see `divergences` in "
        "results.json"
    )


def audit_table(arms: Sequence[dict[str, Any]], against: str) -> RenderableType:
    """How much of each policy's text was compared, and where it parted from the reference."""
    return Sheet(
        f"against {against}",
        list(arms),
        {"policy": lambda arm: arm["policy"]},
        {
            "tokens\ncompared": lambda arm: arm["num_compared"],
            "accepted\na round": lambda arm: f"{arm['accepted_per_round']:.2f}",
            "diver-\ngences": lambda arm: arm["num_divergences"],
            "above\n1e-4": lambda arm: arm["num_above_near_tie"],
            "largest\ngap": lambda arm: _gap(arm["largest_gap"]),
        },
    )


def parting_table(partings: Sequence[dict[str, Any]]) -> RenderableType:
    """Where texts parted: the first `MOST_PARTINGS` places."""

    def token(key: str) -> Cell:
        return lambda parted: "end" if parted[key] is None else parted[key]

    return Sheet(
        f"{min(MOST_PARTINGS, len(partings))} of {len(partings)} divergences; results.json has all",
        list(partings[:MOST_PARTINGS]),
        {"prompt": lambda parted: parted["id"], "policy": lambda parted: parted["policy"]},
        {
            "turn": lambda parted: parted["turn"],
            "position": lambda parted: parted["position"],
            "expected": token("expected"),
            "found": token("found"),
            "gap": lambda parted: _gap(parted["top2_gap"]),
        },
    )


def _gap(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
