"""The engine benchmark, at toy size: its figures are meant, not measured, here."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from adaeagle import generate
from experiments.benchmarks import engine_models
from experiments.benchmarks.engine import main
from experiments.benchmarks.engine_models import Models, load
from experiments.benchmarks.harness import summary
from experiments.benchmarks.timing import Text, forward_timer, paired

REAL = engine_models.SIZES
TOY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}


@pytest.fixture(autouse=True)
def toy_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_models, "SIZES", TOY)


@pytest.fixture
def models() -> Models:
    return load("random", torch.float32, "cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_runs_to_its_end(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    main(
        f"--model random --dtype {dtype} --tokens 19 --pairs 2 --threads 1 --out {out} "
        "--contexts 8 32 4096 --nodes 1 9".split()
    )
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads(out.read_text())
    assert [key for key in result if key[1] == "_"] == [
        "a_vanilla_over_generate",
        "b_chain(length=3)_over_assisted",
        "b_chain(length=5)_over_assisted",
        "b_chain(length=8)_over_assisted",
        "c_chain(length=5)_over_vanilla",
        "c_eagle2(depth=5, width=4, nodes=16)_over_vanilla",
        "c_eagle2_over_vanilla",
        "d_outside_forwards",
        "e_host_by_context",
        "e_host_by_nodes",
    ]
    assert list(result["e_host_by_context"]) == ["8", "32"]  # 4096 is beyond the context
    assert list(result["e_host_by_nodes"]) == ["1", "9"]
    for point in result["d_outside_forwards"].values():
        assert 0 < point["share"]["median"] < 1
    if dtype == "float32":
        assert all(result[key]["equal_texts"] == 2 for key in result if key[:2] in ("a_", "b_"))


def test_too_few_tokens_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--model", "random", "--tokens", "18"])
    assert "--tokens must be >= 19, got 18" in capsys.readouterr().err


def test_a_pair_says_how_many_times_faster_the_first_is(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(
        "experiments.benchmarks.timing.time", SimpleNamespace(perf_counter=lambda: now)
    )

    def make(start: float, step: float, token: int) -> list[int]:
        nonlocal now
        now += start
        for _ in range(5):
            now += step
            models.target.model.base_model(torch.tensor([[1]]))
        return [token] * 10

    found = paired(models, lambda _: make(5.0, 1.0, 7), lambda _: make(0.0, 4.0, 7), 3)
    assert found["text"]["median"] == 20 / 10
    assert found["round"]["median"] == 4.0
    assert found["ms_per_round"] == [1000, 4000]
    assert found["tokens_per_forward"] == [2.0, 2.0]
    assert found["equal_texts"] == 3
    found = paired(models, lambda _: make(0.0, 1.0, 7), lambda _: make(0.0, 1.0, 8), 3)
    assert found["equal_texts"] == 0


def test_rounds_are_timed_after_the_second_forward() -> None:
    assert Text([], 0.0, [0.0, 10.0, 11.0, 12.5, 13.5]).round_seconds == 1.0


def test_summary_is_the_median_with_an_interval_around_it() -> None:
    found = summary([1.0, 2.0, 3.0, 4.0, 90.0])
    assert found["median"] == 3.0
    assert 1.0 <= found["ci95"][0] < 3.0 < found["ci95"][1] <= 90.0
    assert found["n"] == 5


def test_draft_models_of_the_random_target_are_sometimes_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_models, "SIZES", REAL)
    models = load("random", torch.float32, "cpu")
    for drafter in (models.head, models.lm):
        out = generate(
            models.target, drafter, "chain(length=4)", models.prompts[0], max_new_tokens=48
        )
        accepted = sum(r.num_accepted for r in out.rounds)
        assert 0.2 < accepted / sum(r.num_drafted for r in out.rounds) < 0.8


def test_a_context_is_made_of_the_prompts(models: Models) -> None:
    first, second, *_ = models.prompts
    assert models.context_of(len(first) + 2) == [*first, *second[:2]]
    assert len(models.context_of(999)) == 999


@pytest.mark.parametrize("kind", ["head", "lm"])
def test_timer_adds_up_every_forward_of_both_models(
    kind: str, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)  # a tick a reading
    monkeypatch.setattr("experiments.benchmarks.timing.time", clock)
    prompt = models.prompts[0]
    with forward_timer(models.target, models.head) as take:
        generate(models.target, None, "vanilla", prompt, max_new_tokens=4)
        assert take() == 4 * 2  # trunk and output head
        assert take() == 0
    drafter = getattr(models, kind)
    with forward_timer(models.target, drafter) as take:
        out = generate(models.target, drafter, "chain(length=3)", prompt, max_new_tokens=9)
        num_forwards = 1 + sum(1 + r.depth for r in out.rounds)  # the prompt's is the first
        assert take() == num_forwards * 2
    generate(models.target, drafter, "chain(length=3)", prompt, max_new_tokens=9)
    assert take() == 0
