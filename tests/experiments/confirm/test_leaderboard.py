"""What is said of families: how fast, and by how much over what was published."""

from collections.abc import Callable
from typing import Any

import pytest

from experiments.confirm.leaderboard import Evidence, leaderboard, references, speed_ratio
from experiments.confirm.tables import verdict
from experiments.confirm.tuned import Family

MakeEvidence = Callable[..., Evidence]
PLAIN = {"vanilla": [4.0, 2.0, 4.0, 2.0], "fixed": [2.0, 2.0, 2.0, 2.0]}


def family(tuned: str = "tuned", published: str | None = "published", name: str = "one") -> Family:
    return Family(name, tuned, published, 120.0, None if published is None else 100.0, 7, "sweep")


def entry_of(found: Evidence, *families: Family) -> dict[str, Any]:
    return leaderboard(families or [family()], found)[0]


def test_ratios_are_of_totals(evidence: MakeEvidence) -> None:
    found = evidence({**PLAIN, "tuned": [1.0, 2.0, 1.0, 2.0]})
    assert speed_ratio(found.live, "tuned", "vanilla").value == pytest.approx(12 / 6)
    assert speed_ratio(found.live[:1], "tuned", "vanilla").ci95 is None


def test_a_tuned_setting_wins(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "tuned": [1.0, 1.0, 1.0, 1.0], "published": [1.5, 1.5, 1.5, 1.5]}
    replayed = {**live, "tuned": [1.2] * 4}
    entry = entry_of(evidence(live, replayed))
    assert entry["tuned"]["speedup"] == pytest.approx(3.0)
    assert entry["tuned"]["tokens_per_second"] == pytest.approx(10.0)
    assert entry["tuned"]["tokens_per_round"] == 2.0
    assert entry["tuned"]["replayed_speedup"] == pytest.approx(2.5)
    assert entry["tuned"]["replayed_over_live"] == pytest.approx(2.5 / 3)
    low, high = entry["tuned"]["speedup_ci95"]
    assert low < 3.0 < high
    assert entry["gain"]["live"] == pytest.approx(1.5)
    assert entry["gain"]["replayed"] == pytest.approx(1.25)
    assert entry["gain"]["replayed_tune"] == pytest.approx(1.2)
    assert verdict(entry) == "won"


def test_a_tuned_setting_that_is_slower_over_fitted(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "tuned": [1.5] * 4, "published": [1.0] * 4}
    entry = entry_of(evidence(live))
    assert (entry["verdict"], entry["is_sure"]) == ("over-fitted", True)
    noise = {**PLAIN, "tuned": [1.0, 1.6, 1.0, 1.6], "published": [1.2, 1.2, 1.2, 1.2]}
    entry = entry_of(evidence(noise))
    assert entry["gain"]["live"] < 1
    assert verdict(entry) == "over-fitted, within noise"


def test_nothing_to_win(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "tuned": [1.0] * 4}
    entry = entry_of(evidence(live), family(published="tuned"))
    assert (entry["verdict"], entry["gain"]["live"]) == ("as published", 1.0)
    entry = entry_of(evidence(live), family(published=None))
    assert (entry["verdict"], entry["gain"], entry["published"]) == (
        "nothing published",
        None,
        None,
    )


def test_headroom_is_counted_from_the_best_fixed_draft(evidence: MakeEvidence) -> None:
    """A quarter faster than the fixed draft, where foresight would be half as fast again."""
    found = evidence({**PLAIN, "tuned": [1.6] * 4, "published": [2.0] * 4})
    headroom = entry_of(found)["headroom"]
    assert headroom["over_best_fixed"] == pytest.approx(1.25)
    assert headroom["recovered_live"] == pytest.approx(0.5)
    assert headroom["recovered_replayed"] == 0.25
    none = evidence({**PLAIN, "tuned": [1.6] * 4, "published": [2.0] * 4}, dp=100.0)
    assert entry_of(none)["headroom"]["recovered_live"] is None
    [reference] = references(found)
    assert reference["policy"] == "fixed"
    assert reference["speedup"] == pytest.approx(12 / 8)
    assert reference["headroom"] == pytest.approx(0.5)


def test_tasks_are_told_apart(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "tuned": [1.0, 2.0, 1.0, 2.0], "published": [2.0, 1.0, 2.0, 1.0]}
    tasks = entry_of(evidence(live))["tasks"]
    assert list(tasks) == ["near", "far"]
    assert tasks["near"]["num_prompts"] == 2
    assert tasks["near"]["tuned"]["ratio"] == pytest.approx(4.0)
    assert tasks["far"]["published"]["ratio"] == pytest.approx(2.0)
    assert tasks["near"]["gain"]["ratio"] == pytest.approx(2.0)
    assert tasks["far"]["gain"] == {"ratio": 0.5, "ci95": (0.5, 0.5)}


def test_the_fastest_comes_first(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "slow": [2.0] * 4, "quick": [1.0] * 4, "published": [1.5] * 4}
    families = [family("slow", name="a"), family("quick", name="b")]
    assert [each["family"] for each in leaderboard(families, evidence(live))] == ["b", "a"]
