"""The page of a run: its policies, its headroom, its pictures and its rounds."""

from typing import Any

from adaeagle.bench.results import num_rounds
from adaeagle.data.prompts import grouping
from experiments.report.explorer import Explored
from experiments.report.finished import Finished
from experiments.report.ladders import ladders
from experiments.report.pages import (
    Picture,
    about,
    as_data,
    cost_note,
    machine,
    picture,
    render_page,
)
from experiments.views import plots
from experiments.views.acceptance_plots import acceptance_by_depth
from experiments.views.plot_style import MARKS, colour_of, mark_of
from experiments.views.tables import divergence_line

PARTS = ("draft", "verify", "policy", "other")


def render(run: Finished, explored: Explored | str) -> str:
    """The whole page.

    Args:
        run: what it is about.
        explored: its explorer, or the reason why it has none.
    """
    is_explored = isinstance(explored, Explored)
    return render_page(
        "report.html",
        styles=["report.css"],
        scripts=["tables.js", *(["tree.js", "explorer.js"] if is_explored else [])],
        run=run,
        results=run.results,
        clock=_clock(run),
        notes=_notes(run),
        about=about(
            run.results,
            folder=run.path,
            trace=run.config.get("trace"),
            cost_table=run.config.get("cost"),
        ),
        arms=_arms(run),
        highest=max(max((arm.speedup, *(arm.speedup_ci95 or ()))) for arm in run.arms),
        best=max(arm.speedup for arm in run.arms),
        ladders=ladders(run),
        pictures=pictures(run),
        explored=explored if is_explored else None,
        without=None if is_explored else explored,
        data=as_data(explored.data) if isinstance(explored, Explored) else None,
    )


def pictures(run: Finished) -> list[Picture]:
    """Time, acceptance and kinds of text."""
    records, by = run.records, grouping(run.records)
    drawn = {
        "What an average round's milliseconds went to, by policy": plots.time_per_round(records),
        f"Tokens a round by {by} and policy": plots.tokens_per_round(records, by),
        "Share of drafted tokens accepted by depth and policy": acceptance_by_depth(records),
        "How often a round accepted so many tokens, by policy": plots.accepted_length(records),
    }
    return [picture(alt, figure) for alt, figure in drawn.items()]


def _arms(run: Finished) -> list[dict[str, Any]]:
    """The policies in their order: results, colour and mark, and what an average round takes."""
    found = []
    for place, arm in enumerate(run.arms):
        rounds = num_rounds(run.records, arm.policy)
        spent = {part: 1000 * getattr(arm, f"{part}_seconds") / rounds for part in PARTS}
        found.append(
            {
                "of": arm,
                "colour": colour_of(place),
                "mark": MARKS[mark_of(place)],
                "rounds": rounds,
                "spent": {**spent, "sum": sum(spent.values())},
            }
        )
    return found


def _clock(run: Finished) -> str:
    """Whence the seconds come."""
    if not run.is_replay:
        return f"Measured on {machine(run.results['hardware'])}."
    about_cost = run.config["cost_about"]
    where = machine(about_cost.get("hardware", {}))
    when = f", measured {str(about_cost['date'])[:10]}" if "date" in about_cost else ""
    return f"Replayed from a trace; seconds are those of a cost table of {where}{when}."


def _notes(run: Finished) -> list[str]:
    """What must be told beside the numbers."""
    config, results = run.config, run.results
    notes = []
    if "ranking" in results:
        verdict = results["ranking"]["verdict"]
        notes.append(f"{verdict[0].upper()}{verdict[1:]}.")
    if run.is_replay:
        notes += cost_note(config["cost_about"])
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
