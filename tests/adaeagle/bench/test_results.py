import pytest

from adaeagle.bench.records import ArmRecord, PromptRecord, pack_states
from adaeagle.bench.results import grouped, num_rounds, results, summarize


def arm(num_tokens: int, seconds: float, accepted: list[int]) -> ArmRecord:
    return ArmRecord(
        num_tokens=num_tokens,
        seconds=seconds,
        prefill_seconds=0.1,
        draft_seconds=0.2,
        verify_seconds=seconds - 0.6,
        policy_seconds=0.1,
        other_seconds=0.2,
        depth=[2] * len(accepted),
        num_drafted=[4] * len(accepted),
        num_verified=[3] * len(accepted),
        num_accepted=accepted,
        num_emitted=[count + 1 for count in accepted],
    )


def record(prompt_id: str, source: str, vanilla: ArmRecord, chain: ArmRecord) -> PromptRecord:
    return PromptRecord(
        id=prompt_id,
        category="",
        source=source,
        num_turns=1,
        order=["vanilla", "chain"],
        arms={"vanilla": vanilla, "chain": chain},
        divergences=[],
        policy_states=pack_states({"chain": {"length": 3}}),
    )


RECORDS = [
    record("1", "easy", arm(5, 4.0, [0] * 4), arm(5, 1.0, [2, 0])),
    record("2", "hard", arm(9, 8.0, [0] * 8), arm(9, 5.0, [1, 1, 1, 1])),
]


def test_totals_and_their_ratio() -> None:
    vanilla, chain = summarize(RECORDS)
    assert vanilla.tokens_per_second == pytest.approx(14 / 12)
    assert chain.tokens_per_second == pytest.approx(14 / 6)
    # A ratio of totals, not a mean of ratios.
    assert chain.speedup == pytest.approx(2.0)
    assert chain.speedup_ci95 is not None
    assert chain.speedup_ci95[0] <= 2.0 <= chain.speedup_ci95[1]
    assert chain.tokens_per_round == pytest.approx(12 / 6)
    assert chain.acceptance_by_depth == pytest.approx([5 / 6, 1 / 6])
    assert chain.draft_forwards == 12
    assert chain.verified_nodes == 18
    assert chain.verify_seconds == pytest.approx(0.4 + 4.4)
    assert chain.headroom_recovered is None


def test_groups_keep_the_order_of_their_first_prompts() -> None:
    groups = grouped(RECORDS, "source")
    assert list(groups) == ["easy", "hard"]
    assert summarize(groups["easy"])[1].speedup == pytest.approx(4.0)
    assert num_rounds(groups["easy"], "chain") == 2


def test_what_policies_learned_is_no_result() -> None:
    found = results(
        RECORDS,
        {"config": {"target": "t", "drafter": "d"}, "prompts_sha256": "0"},
        git=None,
    )
    assert found["target"] == "t"
    assert all("policy_states" not in prompt for prompt in found["per_prompt"])
    assert found["per_prompt"][0]["arms"]["chain"]["num_accepted"] == [2, 0]


def test_records_survive_json() -> None:
    assert [PromptRecord.from_json(found.to_json()) for found in RECORDS] == RECORDS
