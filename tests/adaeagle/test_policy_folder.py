"""Policies in folders: written with what they read, and loaded from anywhere."""

import json
from pathlib import Path

import pytest

from adaeagle import get_policy
from adaeagle.policy_folder import read_spec, write_policy
from policies import Chain, Confidence, Eagle2, StaticTree


def test_a_spec_without_files(tmp_path: Path) -> None:
    files = write_policy(tmp_path / "p", "eagle2(depth=4, width=3, stop=confidence(threshold=0.3))")
    assert files == [tmp_path / "p" / "policy.json"]
    policy = get_policy(str(tmp_path / "p"))
    assert isinstance(policy, Eagle2)
    assert isinstance(policy.stop, Confidence)
    assert (policy.depth, policy.stop.threshold) == (4, 0.3)


def test_files_travel_with_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree.json").write_text("[[0], [1], [0, 0]]")
    monkeypatch.chdir(tmp_path)
    write_policy(tmp_path / "p", "static_tree(tree='tree.json')")
    (tmp_path / "tree.json").unlink()
    (tmp_path / "p").rename(tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    policy = get_policy(str(tmp_path / "elsewhere"))
    assert isinstance(policy, StaticTree)
    assert policy.nodes == 3


def test_folders_travel_too_and_equal_names_do_not_meet(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "thing").mkdir(parents=True)
        (tmp_path / name / "thing" / "file").write_text(name)
    one, other = tmp_path / "one" / "thing", tmp_path / "other" / "thing"
    write_policy(tmp_path / "p", f"made_up(a='{one}', b=['{other}', '{one}'])")
    assert read_spec(tmp_path / "p") == (
        f"made_up(a='{tmp_path}/p/./thing', b=['{tmp_path}/p/./1-thing', '{tmp_path}/p/./thing'])"
    ).replace("/./", "/")
    assert (tmp_path / "p" / "1-thing" / "file").read_text() == "other"


def test_a_name_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_policy(tmp_path / "chain", "eagle2")
    assert isinstance(get_policy("chain"), Chain)
    assert isinstance(get_policy("./chain"), Eagle2)


def test_specs_that_no_path_can_be() -> None:
    tree = [[0] * depth for depth in range(1, 30)]
    policy = get_policy(f"static_tree(tree={tree})")
    assert isinstance(policy, StaticTree)
    assert policy.nodes == 29
    with pytest.raises(ValueError, match="must read like name"):
        get_policy("\0")


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(FileExistsError, match="must be empty"):
        write_policy(tmp_path, "chain")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"format": "adaeagle policy", "version": 2, "policy": "chain"}),
        json.dumps({"format": "adaeagle policy", "version": 1, "policy": "chain("}),
    ],
)
def test_damaged_folders(tmp_path: Path, content: str) -> None:
    (tmp_path / "policy.json").write_text(content)
    with pytest.raises(ValueError, match=r"policy\.json holds no policy"):
        get_policy(str(tmp_path))
