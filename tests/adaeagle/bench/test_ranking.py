"""What may be said of policies that were measured on the same prompts."""

from collections.abc import Sequence

from adaeagle.bench.ranking import FEWEST_PROMPTS, by_speed, ranking
from adaeagle.bench.records import ArmRecord, PromptRecord

SPEEDS = {"vanilla": [1.0], "slow": [0.5], "quick": [3.0], "as quick": [3.2, 2.8]}


def records(num_prompts: int) -> list[PromptRecord]:
    def arm(speeds: Sequence[float], number: int) -> ArmRecord:
        seconds = 10 / speeds[number % len(speeds)]
        return ArmRecord(10, seconds, 0, 0, 0, 0, 0, [1], [1], [1], [1], [2])

    return [
        PromptRecord(
            str(number), "", "", 1, [], {n: arm(s, number) for n, s in SPEEDS.items()}, [], ""
        )
        for number in range(num_prompts)
    ]


def test_the_best_those_like_it_and_those_that_lose() -> None:
    found = ranking(records(24), "quick")
    assert found["best"] == "quick"
    assert found["indistinguishable"] == ["as quick"]
    assert found["slower_than_vanilla"] == ["slow"]
    assert found["verdict"] == (
        "best: quick; indistinguishable from it: as quick; slower than not drafting: slow"
    )
    arm = found["arms"]["vanilla"]
    assert abs(arm["ratio"] - 1 / 3) < 1e-9
    assert arm["ci95"][0] <= arm["ratio"] <= arm["ci95"][1]
    assert arm["p_adjusted"] < 0.01
    assert "quick" not in found["arms"]


def test_few_prompts_allow_no_verdict() -> None:
    found = ranking(records(FEWEST_PROMPTS - 1), "vanilla")
    assert found["verdict"] == "no verdict: it takes 6 prompts or more, got 5"
    assert found["best"] is found["indistinguishable"] is found["slower_than_vanilla"] is None
    assert found["arms"]["quick"]["p_adjusted"] is None
    assert found["arms"]["quick"]["ratio"] == 3


def test_the_fastest_comes_first() -> None:
    [record, *_] = by_speed(records(24))
    assert list(record.arms) == ["quick", "as quick", "vanilla", "slow"]
