"""The benchmark against `transformers`, at toy size: its figures are meant, not measured, here."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from adaeagle import Target
from experiments.benchmarks.engine import Text, main, paired
from experiments.benchmarks.harness import summary


def test_it_runs_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    given = f"--draft-model mini --tokens 19 --limit 2 --threads 1 --out {out}"
    result = main(given.split())
    assert result == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads(out.read_text())
    compared = {name: found for name, found in result.items() if name[1] == "_"}
    assert list(compared) == [
        "a_plain",
        *(f"b_assisted_{length}" for length in (3, 5, 8)),
        "c_prompt_lookup",
    ]
    for found in compared.values():
        assert found["equal_texts"] == 2
        assert found["text"]["n"] == found["round"]["n"] == 2
        assert found["totals"] > 0
    # Both sides look the same drafts up.
    ours, theirs = compared["c_prompt_lookup"]["tokens_per_forward"]
    assert ours == pytest.approx(theirs, rel=0.1)


def test_without_a_draft_model_there_is_no_assistant(capsys: pytest.CaptureFixture[str]) -> None:
    result = main(["--tokens", "19", "--limit", "1", "--threads", "1"])
    assert [name for name in result if name[1] == "_"] == ["a_plain", "c_prompt_lookup"]


def test_too_few_tokens_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--tokens", "18"])
    assert "--tokens must be >= 19, got 18" in capsys.readouterr().err


def test_a_pair_says_how_many_times_faster_the_first_is(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target.from_pretrained("mini")
    now = 0.0
    clock = SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr("experiments.benchmarks.engine.time", clock)

    def make(start: float, step: float, token: int) -> list[int]:
        nonlocal now
        now += start
        for _ in range(5):
            now += step
            target.model.base_model(torch.tensor([[1]]))
        return [token] * 10

    prompts = [[1]] * 3
    found = paired(target, lambda _: make(5.0, 1.0, 7), lambda _: make(0.0, 4.0, 7), prompts)
    assert found["text"]["median"] == found["totals"] == 20 / 10
    assert found["round"]["median"] == 4.0
    assert found["ms_per_round"] == [1000, 4000]
    assert found["tokens_per_forward"] == [2.0, 2.0]
    assert found["equal_texts"] == 3
    found = paired(target, lambda _: make(0.0, 1.0, 7), lambda _: make(0.0, 1.0, 8), prompts)
    assert found["equal_texts"] == 0


def test_rounds_are_timed_after_the_second_forward() -> None:
    assert Text([], 0.0, [0.0, 10.0, 11.0, 12.5, 13.5]).round_seconds == 1.0


def test_summary_is_the_median_with_an_interval_around_it() -> None:
    found = summary([1.0, 2.0, 3.0, 4.0, 90.0])
    assert found["median"] == 3.0
    assert 1.0 <= found["ci95"][0] < 3.0 < found["ci95"][1] <= 90.0
    assert found["n"] == 5
