import json
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
    with pytest.raises(ValueError, match=r"holds another run: config.seed was 0, is 1"):
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
