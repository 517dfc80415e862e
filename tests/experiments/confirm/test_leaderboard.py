"""What is said of families: how fast, and by how much over what was published."""

from collections.abc import Callable
from typing import Any

import pytest

from adaeagle.bench.ranking import speed_ratio, swap_p_value
from adaeagle.bench.statistics import holm
from experiments.confirm.leaderboard import (
    Evidence,
    leaderboard,
    references,
    replay_sentence,
)
from experiments.confirm.tuned import Family

MakeEvidence = Callable[..., Evidence]
PLAIN = {"vanilla": [4.0, 2.0] * 4, "fixed": [2.0] * 8}


def family(tuned: str = "tuned", published: str | None = "published", name: str = "one") -> Family:
    return Family(name, tuned, published, 120.0, None if published is None else 100.0, 7, "sweep")


def entry_of(found: Evidence, *families: Family) -> dict[str, Any]:
    return leaderboard(families or [family()], found)[0]


def test_ratios_are_of_totals(evidence: MakeEvidence) -> None:
    found = evidence({**PLAIN, "tuned": [1.0, 2.0] * 4})
    assert speed_ratio(found.live, "tuned", "vanilla")["ratio"] == pytest.approx(12 / 6)
    assert speed_ratio(found.live[:1], "tuned", "vanilla")["ci95"] is None


def test_a_tuned_setting_wins(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "tuned": [1.0] * 8, "published": [1.5] * 8}
    replayed = {**live, "tuned": [1.2] * 8}
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
    assert entry["verdict"] == "won"
    assert entry["gain"]["p_value"] == entry["gain"]["p_adjusted"] == 2 / 2**8


def test_a_tuned_setting_that_is_slower_over_fitted(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "tuned": [1.5] * 8, "published": [1.0] * 8}
    entry = entry_of(evidence(live))
    assert entry["verdict"] == "over-fitted"
    noise = {**PLAIN, "tuned": [1.0, 1.6] * 4, "published": [1.2] * 8}
    entry = entry_of(evidence(noise))
    assert entry["gain"]["live"] < 1
    assert entry["verdict"] == "no significant difference"


def test_nothing_to_win(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "tuned": [1.0] * 8}
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
    found = evidence({**PLAIN, "tuned": [1.6] * 8, "published": [2.0] * 8})
    headroom = entry_of(found)["headroom"]
    assert headroom["over_best_fixed"] == pytest.approx(1.25)
    assert headroom["recovered_live"] == pytest.approx(0.5)
    assert headroom["recovered_replayed"] == 0.25
    none = evidence({**PLAIN, "tuned": [1.6] * 8, "published": [2.0] * 8}, dp=100.0)
    assert entry_of(none)["headroom"]["recovered_live"] is None
    [reference] = references(found)
    assert reference["policy"] == "fixed"
    assert reference["speedup"] == pytest.approx(12 / 8)
    assert reference["headroom"] == pytest.approx(0.5)


def test_tasks_are_told_apart(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "tuned": [1.0, 2.0] * 4, "published": [2.0, 1.0] * 4}
    tasks = entry_of(evidence(live))["tasks"]
    assert list(tasks) == ["near", "far"]
    assert tasks["near"]["num_prompts"] == 4
    assert tasks["near"]["tuned"]["ratio"] == pytest.approx(4.0)
    assert tasks["far"]["published"]["ratio"] == pytest.approx(2.0)
    assert tasks["near"]["gain"]["ratio"] == pytest.approx(2.0)
    assert tasks["far"]["gain"] == {"ratio": 0.5, "ci95": (0.5, 0.5)}


def test_the_fastest_comes_first(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "slow": [2.0] * 8, "quick": [1.0] * 8, "published": [1.5] * 8}
    families = [family("slow", name="a"), family("quick", name="b")]
    assert [each["family"] for each in leaderboard(families, evidence(live))] == ["b", "a"]


def test_a_few_prompts_allow_no_verdict(evidence: MakeEvidence) -> None:
    live = {name: seconds[:4] for name, seconds in PLAIN.items()}
    entry = entry_of(evidence({**live, "tuned": [1.0] * 4, "published": [9.0] * 4}))
    assert entry["verdict"] == "too few prompts"
    assert entry["gain"]["live_ci95"] == pytest.approx((9.0, 9.0))


def test_what_one_family_wins_is_noise_among_many(evidence: MakeEvidence) -> None:
    """Of 7 prompts all faster: 1 in 64, which Holm's correction multiplies by four families."""
    live = {name: seconds[:7] for name, seconds in PLAIN.items()}
    found = evidence({**live, "tuned": [1.0] * 7, "published": [1.5] * 7})
    assert entry_of(found)["verdict"] == "won"
    four = leaderboard([family(name=name) for name in "abcd"], found)
    assert {entry["verdict"] for entry in four} == {"no significant difference"}
    assert {entry["gain"]["p_adjusted"] for entry in four} == {4 / 64}


def test_swaps_tell_chance_from_difference(evidence: MakeEvidence) -> None:
    alike = [1.0, 1.1, 0.9, 1.2, 0.8, 1.0, 1.05, 0.95] * 3
    live = {"vanilla": [2.0] * 24, "one": alike, "other": alike[::-1]}
    live |= {"quick": [0.9 * each for each in alike]}
    found = evidence(live)
    assert swap_p_value(found.live, "one", "one") == 1.0
    assert swap_p_value(found.live, "one", "other") > 0.5
    assert swap_p_value(found.live, "quick", "one") < 0.001


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_one_sentence_says_how_far_replay_was_off(evidence: MakeEvidence) -> None:
    live = {**PLAIN, "tuned": [1.0] * 8, "published": [2.0] * 8}
    found = leaderboard([family()], evidence(live, {**live, "tuned": [0.8] * 8}))
    assert replay_sentence(found) == (
        "Replay was off by 12% on average (+12% with its sign), at most by 25%: tuned came out "
        "3.75x replayed, 3.00x live."
    )
