import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaeagle.bench.records import PromptRecord, pack_states, unpack_states
from adaeagle.bench.run_folder import RunFolder
from adaeagle.data.files import write_whole

RECORD = PromptRecord("1", "c", "s", 1, ["vanilla"], {}, [], "")
IDENTITY = {"config": {"seed": 0, "policies": ("a", "b")}, "prompts_sha256": "x"}


def test_records_come_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run", IDENTITY)
    assert folder.records(PromptRecord) == []
    folder.append(RECORD)
    folder.append(replace(RECORD, id="2"))
    again = RunFolder(folder.path, IDENTITY)
    assert [record.id for record in again.records(PromptRecord)] == ["1", "2"]


@pytest.mark.parametrize("whole", [0, 2])
def test_a_torn_line_is_measured_again(tmp_path: Path, whole: int) -> None:
    folder = RunFolder(tmp_path, IDENTITY)
    for number in range(whole):
        folder.append(replace(RECORD, id=str(number)))
    with (tmp_path / "records.jsonl").open("a") as lines:
        lines.write(json.dumps(RECORD.to_json())[:30])
    assert len(folder.records(PromptRecord)) == whole
    folder.append(replace(RECORD, id="next"))
    assert [record.id for record in folder.records(PromptRecord)][-1] == "next"
    assert len(folder.records(PromptRecord)) == whole + 1


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    RunFolder(tmp_path, IDENTITY).append(RECORD)
    other = {**IDENTITY, "config": {"seed": 1, "policies": ["a", "b"]}}
    with pytest.raises(ValueError, match=r"holds another run: seed was 0, is 1"):
        RunFolder(tmp_path, other)
    assert len(RunFolder(tmp_path, IDENTITY).records(PromptRecord)) == 1


def test_replace_begins_again_unless_there_is_something_to_resume(tmp_path: Path) -> None:
    RunFolder(tmp_path, IDENTITY, replace=True).append(RECORD)
    resumed = RunFolder(tmp_path, IDENTITY, replace=True)
    assert len(resumed.records(PromptRecord)) == 1
    resumed.write("results.json", "{}")
    assert RunFolder(tmp_path, IDENTITY, replace=True).records(PromptRecord) == []
    assert not (tmp_path / "results.json").exists()
    RunFolder(tmp_path, IDENTITY).append(RECORD)
    assert RunFolder(tmp_path, {"config": {}}, replace=True).records(PromptRecord) == []


@pytest.mark.parametrize("content", ['{"model_type": "llama"}', "no JSON"])
@pytest.mark.parametrize("replace_it", [False, True])
def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, content: str, replace_it: bool
) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="holds files of something else than a run"):
        RunFolder(tmp_path, IDENTITY, replace=replace_it)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == content


def test_results_without_a_run_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="holds files of something else"):
        RunFolder(tmp_path, IDENTITY, replace=True)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    held = RunFolder(tmp_path, IDENTITY)
    RunFolder(tmp_path, IDENTITY)  # this process may
    code = (
        "import sys; from pathlib import Path; from adaeagle.bench.run_folder import RunFolder\n"
        f"RunFolder(Path({str(tmp_path)!r}), {IDENTITY!r})"
    )
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"another process is at work in {tmp_path}" in second.stderr
    del held
    third = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert third.returncode == 0, third.stderr


def test_a_record_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY)
    for number in (1, 2, 1):
        folder.append(replace(RECORD, id=str(number)))
    assert [record.id for record in folder.records(PromptRecord)] == ["1", "2"]


def test_what_differs_is_told_in_words(tmp_path: Path) -> None:
    RunFolder(tmp_path, {**IDENTITY, "config": {"target_weights": "0f3a"}})
    with pytest.raises(ValueError, match=r"another run: the weights of the target have changed$"):
        RunFolder(tmp_path, {**IDENTITY, "config": {"target_weights": "77aa"}})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_whole(path, b"old")
    with pytest.raises(TypeError):
        write_whole(path, None)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_states_keep_their_tensors() -> None:
    packed = pack_states({"a": {"rate": torch.tensor([0.5]), "counts": [1, 2]}, "b": {}})
    states = unpack_states(packed)
    assert list(states) == ["a"]
    assert torch.equal(states["a"]["rate"], torch.tensor([0.5]))
    assert states["a"]["counts"] == [1, 2]
    assert (pack_states({"b": {}}), unpack_states("")) == ("", {})
