from dataclasses import replace
from typing import Any

import pytest
import torch

from adaeagle.bench.divergence import first_difference, top2_gap
from adaeagle.bench.runner import Bench, make_arms, text_seed
from adaeagle.data.prompts import Prompt
from adaeagle.decoding.sampling import Sampling
from adaeagle.policy import Budget, Context, Outcome, Policy

PROMPTS = [Prompt(str(n), token_ids=(n + 1, n + 2, 3, 4), source="s") for n in range(4)]
SPECS = ("chain(length=2)", "eagle2(depth=2, width=2, nodes=4)")


class Counting(Policy):
    """Knows across texts how many rounds it has seen."""

    learns = True

    def __init__(self) -> None:
        self.num_rounds = 0

    def plan(self, context: Context) -> Budget:
        return Budget(depth=1)

    def observe(self, outcome: Outcome) -> None:
        self.num_rounds += 1

    def state_dict(self) -> dict[str, Any]:
        return {"num_rounds": self.num_rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_rounds = state["num_rounds"]


@pytest.fixture
def bench(make_pair: Any) -> Bench:
    target, drafter = make_pair("eagle")
    return Bench(target, drafter, make_arms(SPECS), Sampling(), max_new_tokens=10)


def test_arms_are_interleaved_and_rotated(bench: Bench) -> None:
    records = list(bench.run(PROMPTS))
    assert [record.order[0] for record in records] == ["vanilla", *SPECS, "vanilla"]
    assert all(set(record.arms) == {"vanilla", *SPECS} for record in records)


def test_all_arms_are_counted_alike(bench: Bench) -> None:
    for record in bench.run(PROMPTS):
        assert record.divergences == []
        for arm in record.arms.values():
            assert arm.num_tokens == 10 == 1 + sum(arm.num_emitted)
            parts = ("prefill", "draft", "verify", "policy", "other")
            assert arm.seconds == pytest.approx(sum(getattr(arm, f"{p}_seconds") for p in parts))
        assert record.arms["vanilla"].depth == [0] * 9
        assert sum(record.arms[SPECS[0]].num_accepted) > 0


def test_finished_prompts_are_skipped_and_learning_goes_on(bench: Bench) -> None:
    bench.policies["counting"] = Counting()
    records = list(bench.run(PROMPTS))
    knows = bench.policies["counting"].state_dict()
    fresh = replace(bench, policies={**make_arms(SPECS), "counting": Counting()})
    rest = list(fresh.run(PROMPTS, finished=records[:3]))
    assert [record.id for record in rest] == ["3"]
    assert rest[0].order == records[3].order
    assert fresh.policies["counting"].state_dict() == knows


def test_the_warm_up_teaches_nothing(bench: Bench) -> None:
    bench.policies["counting"] = Counting()
    bench.warm_up(PROMPTS[0])
    assert bench.policies["counting"].state_dict() == {"num_rounds": 0}


def test_vanilla_is_always_an_arm_and_none_is_there_twice() -> None:
    assert list(make_arms(["chain", "vanilla"])) == ["chain", "vanilla"]
    assert list(make_arms(["chain"])) == ["vanilla", "chain"]
    with pytest.raises(ValueError, match="must differ, got 'chain' twice"):
        make_arms(["chain", "chain"])


def test_seeds_differ_by_prompt_and_turn_only() -> None:
    seeds = {text_seed(0, name, turn) for name in ("a", "b") for turn in (0, 1)}
    assert len(seeds) == 4
    assert text_seed(0, "a", 0) == text_seed(0, "a", 0) != text_seed(1, "a", 0)


@pytest.mark.parametrize(
    ("left", "right", "place"),
    [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1, 2], [1], 1), ([], [4], 0)],
)
def test_first_difference(left: list[int], right: list[int], place: int | None) -> None:
    assert first_difference(left, right) == place


def test_a_divergence_is_recorded_with_its_gap(bench: Bench) -> None:
    answers = {"vanilla": [5, 6, 7], SPECS[0]: [5, 6, 7], SPECS[1]: [5, 9, 7]}
    [found] = bench._compare([1, 2, 3], 0, answers)
    assert (found.policy, found.turn, found.position) == (SPECS[1], 0, 1)
    with torch.inference_mode():
        logits = bench.target.model(torch.tensor([[1, 2, 3, 5]])).logits[0, -1]
    best = logits.topk(2).values
    assert found.top2_gap == pytest.approx(float(best[0] - best[1]), abs=1e-4)
    assert top2_gap(bench.target, [1, 2, 3, 5]) == found.top2_gap


def test_a_coupled_divergence_has_no_gap(bench: Bench) -> None:
    coupled = replace(bench, sampling=Sampling(temperature=1.0, mode="coupled"))
    [found] = coupled._compare([1], 0, {"vanilla": [5], SPECS[0]: [6]})
    assert found.top2_gap is None
