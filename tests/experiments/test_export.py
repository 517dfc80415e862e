"""Policies in other engines' words, counted as they count, and as folders."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adaeagle import get_policy
from experiments.runs.export import VLLM_METHODS, Models, Setting, sglang, static_setting, vllm
from policies import Eagle2, StaticTree

MODELS = ("--target", "org/target", "--drafter", "org/EAGLE-head")


def exported(run: Any, policy: str, to: str, *arguments: object) -> dict[str, Any]:
    found = run("export", "--policy", policy, "--to", to, "--json", *arguments)
    assert found.code == 0, found.stderr
    line: dict[str, Any] = json.loads(found.stdout)
    return line


def test_chain_for_vllm(run: Any) -> None:
    found = exported(run, "chain(length=5)", "vllm", *MODELS)
    expected = {"method": "eagle", "model": "org/EAGLE-head", "num_speculative_tokens": 5}
    assert found["config"] == expected
    words = shlex.split(found["command"])
    assert words[:4] == ["vllm", "serve", "org/target", "--speculative-config"]
    assert json.loads(words[4]) == expected


def test_chain_for_sglang(run: Any) -> None:
    """The usual setting there: 3 steps, 1 child, 4 tokens with the root."""
    found = exported(run, "chain(length=3)", "sglang", *MODELS)
    words = shlex.split(found["command"])
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    assert flags == {
        "--model-path": "org/target",
        "--speculative-algorithm": "EAGLE",
        "--speculative-draft-model-path": "org/EAGLE-head",
        "--speculative-num-steps": "3",
        "--speculative-eagle-topk": "1",
        "--speculative-num-draft-tokens": "4",
    }


def test_tree_for_sglang(run: Any) -> None:
    """EAGLE's own default, total_token 60, depth 5, top_k 10: 6 forwards here, and 60 tokens."""
    found = exported(run, "eagle2", "sglang", *MODELS)
    numbers = list(found["config"].values())[2:]
    assert numbers == [6, 10, 60]


@pytest.mark.parametrize(
    ("spec", "setting"),
    [
        ("chain(length=4)", Setting(4, 1, 4)),
        ("eagle2(depth=2, width=3, nodes=50)", Setting(2, 3, 12)),
        ("eagle2(depth=4, width=3, nodes=9)", Setting(4, 3, 9)),
        ("static_tree([[0], [0, 0], [0, 0, 0]])", Setting(3, 1, 3)),
    ],
)
def test_what_is_static(spec: str, setting: Setting) -> None:
    assert static_setting(get_policy(spec)) == setting


def test_a_beam_of_one_is_a_chain_of_as_many_tokens_as_are_verified() -> None:
    setting, models = Setting(8, 1, 5), Models("t", "d", "eagle")
    assert vllm(setting, models)["config"]["num_speculative_tokens"] == 5
    assert list(sglang(setting, models)["config"].values())[2:] == [5, 1, 6]


@pytest.mark.parametrize(
    ("arguments", "method", "algorithm"),
    [
        (("--drafter", "yuhuili/EAGLE3-LLaMA3.1"), "eagle3", "EAGLE3"),
        (("--drafter", "someone/eagle-3-head"), "eagle3", "EAGLE3"),
        (("--drafter", "yuhuili/EAGLE-LLaMA3"), "eagle", "EAGLE"),
        (("--drafter", "Qwen/Qwen3-0.6B", "--drafter-kind", "lm"), "draft_model", "STANDALONE"),
        (("--drafter", "runs/head", "--drafter-kind", "eagle3"), "eagle3", "EAGLE3"),
    ],
)
def test_kinds_of_drafters(
    arguments: tuple[str, ...], method: str, algorithm: str, run: Any
) -> None:
    given = ("--target", "t", *arguments)
    assert exported(run, "chain", "vllm", *given)["config"]["method"] == method
    config = exported(run, "chain", "sglang", *given)["config"]
    assert config["--speculative-algorithm"] == algorithm


@pytest.fixture
def best(tmp_path: Path) -> Path:
    """What a sweep leaves behind, as far as it is read."""
    path = tmp_path / "best.json"
    models = {"target": "org/target", "drafter": "org/small", "drafter_kind": "lm"}
    path.write_text(json.dumps({"policy": "chain(length=6)", "models": models}))
    return path


def test_the_winner_of_a_sweep(run: Any, best: Path) -> None:
    found = exported(run, str(best), "vllm")
    expected = {"method": "draft_model", "model": "org/small", "num_speculative_tokens": 6}
    assert found["config"] == expected
    assert found["policy"] == "chain(length=6)"
    other = exported(run, str(best), "vllm", "--drafter", "org/eagle3")
    assert other["config"]["method"] == "eagle3"


def test_a_look_up_is_no_head(run: Any, best: Path) -> None:
    """The drafter of the sweep decides: tokens that are looked up are no EAGLE head's."""
    models = {"target": "org/target", "drafter": "ngram", "drafter_kind": "ngram"}
    best.write_text(json.dumps({"policy": "chain(length=6)", "models": models}))
    refused = run("export", "--policy", best, "--to", "vllm")
    assert refused.code == 2
    assert "--drafter-kind must be auto or one of eagle, eagle3, lm, got 'ngram'" in refused.stderr


def test_files(run: Any, best: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = exported(run, str(best), "vllm", "--out", out)
    assert json.loads((out / "config.json").read_text()) == found["config"]
    assert (out / "command.sh").read_text() == found["command"] + "\n"


def test_a_folder(run: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree.json"
    tree.write_text("[[0], [1], [0, 0]]")
    exported(run, f"static_tree(tree='{tree}')", "folder", "--out", tmp_path / "p")
    policy = get_policy(str(tmp_path / "p"))
    assert isinstance(policy, StaticTree)
    assert policy.nodes == 3
    assert (tmp_path / "p" / "tree.json").is_file()
    # What any command takes by name it takes by folder.
    again = exported(run, str(tmp_path / "p"), "folder", "--out", tmp_path / "q")
    assert (tmp_path / "q" / "tree.json").is_file()
    assert again["policy"].startswith("static_tree")


def test_a_sweep_s_winner_as_a_folder(run: Any, tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text(json.dumps({"policy": "eagle2(depth=3)"}))
    exported(run, "best.json", "folder", "--out", "p")
    policy = get_policy(str(tmp_path / "p"))
    assert isinstance(policy, Eagle2)
    assert policy.depth == 3


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("chain", "vllm"), ("--target", "must name the model that vllm")),
        (("chain", "vllm", "--target", "t"), ("--drafter", "must name the model that vllm")),
        (("chain", "trtllm"), ("--to", "vllm, sglang, folder", "'trtllm'")),
        (("chian", "vllm", *MODELS), ("--policy", "did you mean 'chain'")),
        (("eagle2", "vllm", *MODELS), ("must be a chain for vLLM", "width 10")),
        (("static_tree", "sglang", *MODELS), ("a chain or an eagle2 tree", "StaticTree")),
        (("confidence", "sglang", *MODELS), ("without a stop rule, got Confidence",)),
        (("vanilla", "vllm", *MODELS), ("must draft", "leave speculation off")),
        (("talon", "sglang", *MODELS), ("a chain or an eagle2 tree", "Talon")),
        (("chain", "vllm", *MODELS, "--drafter-kind", "medusa"), ("--drafter-kind", "'medusa'")),
        (("chain", "folder"), ("--out must name the folder",)),
        (("nowhere.json", "vllm", *MODELS), ("--policy", "best.json of a sweep", "nowhere.json")),
    ],
)
def test_wrong_input(arguments: tuple[str, ...], fragments: tuple[str, ...], run: Any) -> None:
    policy, to, *rest = arguments
    found = run("export", "--policy", policy, "--to", to, *rest)
    assert found.code == 2
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    for fragment in fragments:
        assert fragment in found.stderr


def test_a_folder_that_is_in_use(run: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    found = run("export", "--policy", "chain", "--to", "folder", "--out", tmp_path)
    assert found.code == 2
    assert "new or empty" in found.stderr


@pytest.mark.parametrize(("inputs", "kind"), [(2, "eagle"), (3, "eagle3"), (None, "lm")])
def test_the_weights_of_a_folder_tell_what_drafts(
    run: Any, tmp_path: Path, inputs: int | None, kind: str
) -> None:
    names = {"embed.weight": (8, 4)} if inputs is None else {"fc.weight": (4, 4 * inputs)}
    (tmp_path / "config.json").write_text("{}")
    weights = {name: torch.zeros(shape) for name, shape in names.items()}
    save_file(weights, tmp_path / "model.safetensors")
    found = exported(run, "chain", "vllm", "--target", "org/t", "--drafter", tmp_path)
    assert found["config"]["method"] == VLLM_METHODS[kind]


def test_a_folder_of_something_else_is_left_alone(run: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = run("export", "--policy", "chain", "--to", "vllm", *MODELS, "--out", tmp_path)
    assert found.code == 2
    assert "holds files of something else" in found.stderr
    assert (tmp_path / "config.json").read_text() == "{}"
    for _ in range(2):  # its own it writes once more
        exported(run, "chain", "vllm", *MODELS, "--out", tmp_path / "new")
