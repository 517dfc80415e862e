"""The command: every stage once, in its time, and nothing of the test split before it is over."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adaeagle.trace.folder import TraceFolder
from experiments.errors import InputError
from experiments.study import stages
from experiments.study.stages import STAGES, StageResult, Study

RunStudy = Callable[..., Any]


def last_line(found: Any) -> dict[str, Any]:
    assert found.code == 0, found.stderr
    line: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return line


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Of every file, and when it was written."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "config.json"
    }


def test_from_nothing_to_the_report_and_a_second_call_does_nothing(
    study: RunStudy, tmp_path: Path
) -> None:
    line = last_line(study())
    assert not line["was_done"]
    assert {each["family"] for each in line["families"]} == {"chain", "confidence"}
    assert list(line["stages"]) == list(STAGES)
    assert all(stage["cut"] == [] for stage in line["stages"].values())
    assert line["stages"]["sweeps"]["done"] == "2 families, 6 trials"
    assert line["num_prompts"] == 4
    page = (tmp_path / "study" / "report.html").read_text("utf-8")
    assert "Stages of the study" in page
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert [each["tuned"]["speedup"] for each in results["families"]] == [
        each["speedup"] for each in line["families"]
    ]
    before = contents(tmp_path / "study")
    again = study()
    assert "every stage was done, nothing is left to do" in again.stdout
    assert last_line(again) == {**line, "was_done": True}
    assert contents(tmp_path / "study") == before


def stop_at(monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException) -> None:
    def stop(*_: object) -> StageResult:
        raise error

    monkeypatch.setitem(STAGES, stage, (1.0, stop))


def test_an_interrupted_study_goes_on_where_it_was(
    study: RunStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, "sweeps", KeyboardInterrupt())
    assert study().code == 130
    stop_at(monkeypatch, "trace", AssertionError("it was done"))
    stop_at(monkeypatch, "sweeps", InputError("here it goes on"))
    found = study()
    assert "trace: was done" in found.stderr
    assert refusal(found) == "adaeagle: stage sweeps: here it goes on"


def test_what_there_is_no_time_for_is_cut_and_said(
    study: RunStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time at all: the trace ends with its first shards, a family with what was published."""
    monkeypatch.setattr("experiments.study.planning.LEAST_SECONDS", 1e-6)
    line = last_line(study("--time-budget", 0.001, "--trials", 500, "--limit", 8))
    told = line["stages"]
    # A shard of each split is recorded whatever the time.
    assert told["trace"]["cut"] == ["4 of 8 prompts were not recorded"]
    assert [text.partition(":")[0] for text in told["sweeps"]["cut"]] == ["01", "02"]
    assert all("of 500 trials" in text for text in told["sweeps"]["cut"])
    assert told["confirm"]["cut"] == ["1 of 2 test prompts were not run"]
    page = (tmp_path / "study" / "report.html").read_text("utf-8")
    for text in (*told["trace"]["cut"], *told["confirm"]["cut"]):
        assert text in page


def test_nothing_of_the_test_split_is_read_before_confirming(
    study: RunStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the recording its shards are torn to pieces: whoever opened one would know.

    A predictor is trained, and all is swept, before they are read.
    """
    record = STAGES["trace"][1]

    def torn(given: Study, seconds: float | None) -> StageResult:
        told = record(given, seconds)
        shards = TraceFolder.open(given.trace).manifest.shards
        for number, shard in enumerate(shards):
            for name in ("texts", "tokens", "nodes", "features"):
                for path in (given.trace / name).glob(f"{number:05}.*"):
                    if shard.split == "test":
                        path.write_bytes(b"the test split")
        return told

    def trained(given: Study, seconds: float | None) -> StageResult:
        monkeypatch.setattr(stages, "predictor_kinds", lambda: ["isotonic"])
        free = replace(given, settings=replace(given.settings, policies=None))
        told = stages.train_predictors(free, seconds)
        assert told.cut == []
        return told

    monkeypatch.setitem(STAGES, "trace", (1.0, torn))
    monkeypatch.setitem(STAGES, "predictors", (1.0, trained))
    with monkeypatch.context() as patch:
        stop_at(patch, "confirm", InputError("here it ends"))
        assert refusal(study()) == "adaeagle: stage confirm: here it ends"
    assert (tmp_path / "study" / "predictors" / "isotonic" / "result.json").is_file()
    told = json.loads((tmp_path / "study" / "stages.json").read_text())
    assert told["sweeps"] == {**told["sweeps"], "cut": [], "done": "2 families, 6 trials"}
    # The marker is met as soon as the split is read.
    assert "must be of" in refusal(study())


def test_a_family_that_cannot_be_swept_is_left_out(
    study: RunStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, "confirm", InputError("here it ends"))
    study(policies=("chain", "eagle2(depth=1, width=2, nodes=9)"))
    told = json.loads((tmp_path / "study" / "stages.json").read_text())["sweeps"]
    assert told["done"] == "1 family, 3 trials"
    [cut] = told["cut"]
    assert cut.startswith("02: --policies must have a feasible value")


def refusal(found: Any) -> str:
    assert found.code == 2
    assert found.stdout == ""
    return str(found.stderr.splitlines()[-1])


def test_wrong_input(study: RunStudy) -> None:
    assert "--time-budget must be > 0" in refusal(study("--time-budget", 0))
    assert "did you mean 'chain'" in refusal(study(policies=["chian"]))
    assert "--trials" in refusal(study("--trials", 0))
    assert "--prompts" in refusal(study("--prompts", "nowhere.jsonl"))


def test_another_study_in_the_folder(study: RunStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, "trace", InputError("no"))
    assert refusal(study()) == "adaeagle: stage trace: no"
    assert "holds another run: seed was 0, is 1" in refusal(study("--seed", 1))


@pytest.mark.slow
def test_the_profile_is_measured_on_tune_prompts_alone(
    run: Any, folders: Any, study: RunStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGES, "profile", (6.0, stages.measure_profile))
    last_line(study("--time-budget", 0.1))
    told = (tmp_path / "study" / "tune.jsonl").read_text().splitlines()
    assert len(told) == 4
    shards = TraceFolder.open(tmp_path / "study" / "trace").manifest.shards
    test = {i for shard in shards if shard.split == "test" for i in shard.prompt_ids}
    assert test.isdisjoint(json.loads(line)["id"] for line in told)
