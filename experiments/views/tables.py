"""Measured policies as terminal tables."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from adaeagle.bench.records import PromptRecord
from adaeagle.bench.results import ArmResult, grouped, num_rounds, summarize
from adaeagle.bench.runner import BASELINE

MOST_PARTINGS = 20


def speed_table(records: Sequence[PromptRecord]) -> Group:
    """How fast each policy is."""
    table = _table("policy", "tokens/s", "speed-up", "95 % interval", "tokens\na round")
    arms = summarize(records)
    best = max(arm.speedup for arm in arms)
    for number, arm in enumerate(arms, start=1):
        table.add_row(
            str(number),
            arm.policy,
            f"{arm.tokens_per_second:.1f}",
            f"{arm.speedup:.2f}x",
            _interval(arm),
            f"{arm.tokens_per_round:.2f}",
            style="bold" if arm.speedup == best else None,
        )
    return _titled("speed", table)


def round_table(records: Sequence[PromptRecord]) -> Group:
    """What an average round of each policy is made of."""
    parts = ("draft", "verify", "policy", "other")
    titles = ("draft\nforwards", "nodes\nverified", *(f"{part}\nms" for part in parts), "sum\nms")
    table = _table(*titles)
    for number, arm in enumerate(summarize(records), start=1):
        rounds = num_rounds(records, arm.policy)
        spent = [1000 * getattr(arm, f"{part}_seconds") / rounds for part in parts]
        table.add_row(
            str(number),
            *(f"{total / rounds:.1f}" for total in (arm.draft_forwards, arm.verified_nodes)),
            *(f"{milliseconds:.2f}" for milliseconds in (*spent, sum(spent))),
        )
    return _titled("an average round", table)


def _table(*columns: str) -> Table:
    """A table whose first column is the number of a policy."""
    table = _bare_table()
    table.add_column("#", justify="right")
    for column in columns:
        if column == "policy":
            table.add_column(column, overflow="fold", min_width=32)
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _bare_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _titled(title: str, table: Table) -> Group:
    """A table below its title, which may be the wider of the two."""
    return Group(Text(title, style="italic"), table)


def _interval(arm: ArmResult) -> str:
    if arm.policy == BASELINE or arm.speedup_ci95 is None:
        return "-"
    low, high = arm.speedup_ci95
    return f"{low:.2f} to {high:.2f}"


def group_table(records: Sequence[PromptRecord], by: str) -> Group:
    """A row for each source or category: tokens a round and speed-up of every drafting policy."""
    table = _bare_table()
    table.add_column(by)
    table.add_column("prompts", justify="right")
    drafting = [name for name in records[0].arms if name != BASELINE]
    for number, name in enumerate(records[0].arms, start=1):
        if name in drafting:
            table.add_column(f"#{number}", justify="right", no_wrap=True)
    for group, members in grouped(records, by).items():
        arms = {arm.policy: arm for arm in summarize(members)}
        cells = (
            f"{arms[name].tokens_per_round:.2f}\n{arms[name].speedup:.2f}x" for name in drafting
        )
        table.add_row(group or "-", str(len(members)), *cells)
    return _titled(f"tokens a round and speed-up by {by}", table)


def headroom_table(found: dict[str, Any]) -> Group:
    """What foresight would win over the best fixed draft, and the share that each policy makes.

    Args:
        found: the whole of `results.json`.
    """
    oracle = found["oracle"]
    table = _bare_table()
    for title in ("family", "best fixed draft", "chosen on"):
        table.add_column(title, overflow="fold")
    for title in ("tokens/s", "greedy", "dp", "headroom"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, family in oracle["families"].items():
        table.add_row(
            name,
            family["baseline"],
            family["baseline_chosen_on"],
            *(f"{family[key]:.1f}" for key in ("fixed", "greedy", "dp")),
            f"{family['headroom']:+.1%}",
        )
    shares = _bare_table()
    shares.add_column("policy", overflow="fold", min_width=32)
    for title in ("family", "tokens/s", "recovered"):
        shares.add_column(title, justify="right", no_wrap=True)
    for arm in found["arms"]:
        share = arm["headroom_recovered"]
        shares.add_row(
            arm["policy"],
            oracle["family_of"][arm["policy"]],
            f"{arm['tokens_per_second']:.1f}",
            "-" if share is None else f"{share:+.0%}",
        )
    bound = f"clairvoyant, on what was recorded: {oracle['clairvoyant']:.1f} tokens/s"
    title = f"headroom on the prompts of split {oracle['split']}"
    return Group(_titled(title, table), shares, Text(bound))


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


def audit_table(arms: Sequence[dict[str, Any]], against: str) -> Group:
    """How much of each policy's text was compared, and where it parted from the reference."""
    table = _bare_table()
    table.add_column("policy", overflow="fold", min_width=32)
    titles = (
        "tokens\ncompared",
        "accepted\na round",
        "diver-\ngences",
        "above\n1e-4",
        "largest\ngap",
    )
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for arm in arms:
        gap = arm["largest_gap"]
        table.add_row(
            arm["policy"],
            str(arm["num_compared"]),
            f"{arm['accepted_per_round']:.2f}",
            str(arm["num_divergences"]),
            str(arm["num_above_near_tie"]),
            "-" if gap is None else f"{gap:.1e}",
        )
    return _titled(f"against {against}", table)


def parting_table(partings: Sequence[dict[str, Any]]) -> Group:
    """Where texts parted: the first `MOST_PARTINGS` places."""
    table = _bare_table()
    for title in ("prompt", "turn", "position", "expected", "found", "gap"):
        table.add_column(title, justify="left" if title == "prompt" else "right", no_wrap=True)
    table.add_column("policy", overflow="fold")
    for parted in partings[:MOST_PARTINGS]:
        gap = parted["top2_gap"]
        tokens = (parted["expected"], parted["found"])
        table.add_row(
            parted["id"],
            str(parted["turn"]),
            str(parted["position"]),
            *("end" if token is None else str(token) for token in tokens),
            "-" if gap is None else f"{gap:.1e}",
            parted["policy"],
        )
    shown = min(MOST_PARTINGS, len(partings))
    return _titled(f"{shown} of {len(partings)} divergences; results.json has all", table)
