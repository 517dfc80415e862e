"""Wrong input ends with one line that says which argument, what it must be and what it was."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

WRONG_OPTIONS = [
    (("compare", "--max-new-tokens", "0"), "--max-new-tokens", ">= 1", "'0'"),
    (("compare", "--max-new-tokens", "many"), "--max-new-tokens", "whole number", "'many'"),
    (("compare", "--temperature", "-0.5"), "--temperature", ">= 0", "-0.5"),
    (("compare", "--temperature", "hot"), "--temperature", "number", "'hot'"),
    (("compare", "--temperature", "nan"), "--temperature", "number", "'nan'"),
    (("compare", "--top-p", "1.5"), "--top-p", "(0, 1]", "1.5"),
    (("compare", "--top-k", "-1"), "--top-k", ">= 0", "'-1'"),
    (("compare", "--sampling", "lucky"), "--sampling", "rejection", "'lucky'"),
    (("compare", "--limit", "0"), "--limit", ">= 1", "'0'"),
    (("compare", "--seed", "-3"), "--seed", ">= 0", "'-3'"),
    (("compare", "--threads", "0"), "--threads", ">= 1", "'0'"),
    (("compare", "--policies", "chian"), "--policies", "did you mean 'chain'", "'chian'"),
    (("compare", "--policies", "chain(size=3)"), "--policies", "known: length", "'size'"),
    (("compare", "--policies", "eagle2", "chain(length=0)"), "--policies", ">= 1", "got 0"),
    (("compare", "--policies", "chain(length=3"), "--policies", "read like", "'chain(length=3'"),
    (("compare", "--policies", "chain", "chain"), "--policies", "must differ", "'chain'"),
    (("compare", "--policies"), "--policies", "requires an argument", ""),
    (
        ("compare", "--prompts", "nowhere.jsonl"),
        "--prompts",
        "a file of JSON Lines or plain text",
        "nowhere.jsonl",
    ),
    (("compare", "--polices", "chain"), "--polices", "--policies", ""),
    (("generate", "--policy", "chian"), "--policy", "did you mean 'chain'", "'chian'"),
    (("generate",), "--prompt", "must be given", "neither"),
    (("generate", "--prompt", "x", "--prompts", "y"), "--prompts", "must be given", "both"),
    (("generate", "--prompt", " "), "--prompt", "must not be empty", "' '"),
    (("comapre",), "comapre", "compare", ""),
]


def assert_refused(found: Any, *fragments: str) -> None:
    assert found.code == 2
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1, found.stderr
    assert "Traceback" not in found.stderr
    for fragment in fragments:
        assert fragment in found.stderr


@pytest.mark.parametrize(("arguments", "name", "rule", "value"), WRONG_OPTIONS)
def test_options(run: Any, arguments: tuple[str, ...], name: str, rule: str, value: str) -> None:
    assert_refused(run(*arguments), name, rule, value)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ('{"id": 2, "turns": ["a"]', "must be a JSON object"),
        ('["a"]', "must be a JSON object"),
        ('{"id": true, "turns": ["a"]}', "id must be"),
        ('{"id": 2}', "must hold one of turns, messages"),
        ('{"id": 2, "turns": "a"}', "turns must be a list of strings"),
        ('{"id": 2, "turns": [""]}', "must not be empty"),
        ('{"id": 2, "token_ids": ["a"]}', "token_ids must be a list of whole numbers"),
        ('{"id": 1, "turns": ["a"]}', "id must be unique"),
    ],
)
def test_malformed_prompt(run: Any, tmp_path: Path, line: str, rule: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": 1, "turns": ["fine"]}\n' + line + "\n")
    assert_refused(run("compare", "--prompts", path), "--prompts", f"line 2 of {path}", rule)


def test_prompt_longer_than_the_context(compare: Any, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"id": "long", "turns": ["x" * 600]}) + "\n")
    assert_refused(compare("--prompts", path), "--prompts", "'long'", "context of 512", "600")


def test_token_beyond_the_vocabulary(compare: Any, tmp_path: Path) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text(json.dumps({"id": "ids", "token_ids": [1, 96]}) + "\n")
    assert_refused(compare("--prompts", path), "--prompts", "0..95", "got 96")


def test_empty_prompt_file(compare: Any, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    assert_refused(compare("--prompts", path), "--prompts", "at least one record", str(path))


def test_turns_without_a_tokenizer(compare: Any, folders: Any, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folders.target / name, bare)
    assert_refused(compare("--target", bare), "--prompts", "must have token_ids", "no tokenizer")


@pytest.mark.parametrize(
    ("arguments", "name", "rule", "value"),
    [
        (("--target", "/no/such/folder"), "--target", "a folder", "'/no/such/folder'"),
        (("--drafter", "./no_such_head"), "--drafter", "no such folder", "'./no_such_head'"),
        (("--drafter", "ngrams()"), "--drafter", "did you mean 'ngram'?", "'ngrams()'"),
        (("--drafter", "ngram(n=2)"), "--drafter", "unknown argument 'n'", "'ngram(n=2)'"),
        (("--dtype", "int8"), "--dtype", "bfloat16", "'int8'"),
        (("--device", "gpu"), "--device", "cpu, cuda", "'gpu'"),
    ],
)
def test_models(compare: Any, arguments: tuple[str, ...], name: str, rule: str, value: str) -> None:
    assert_refused(compare(*arguments), name, rule, value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_cuda_without_one(compare: Any) -> None:
    assert_refused(compare("--device", "cuda"), "--device", "of this machine", "'cuda'")


def test_drafter_must_be_named(run: Any, folders: Any, prompts: Path) -> None:
    found = run("compare", "--target", folders.target, "--prompts", prompts)
    assert_refused(found, "--drafter", "must name a draft model", "got none")


def test_mismatched_head(compare: Any, folders: Any) -> None:
    found = compare("--drafter", folders.wrong_head)
    assert_refused(found, "--drafter", "hidden_size", "48", "96")


def test_head_as_language_model(compare: Any, folders: Any) -> None:
    found = compare("--drafter", f"lm(model={str(folders.head)!r})")
    assert_refused(found, "--drafter", "a drafter made for", str(folders.head))


@pytest.mark.parametrize("part", ["target", "head"])
def test_truncated_checkpoint(compare: Any, folders: Any, tmp_path: Path, part: str) -> None:
    broken = tmp_path / part
    shutil.copytree(getattr(folders, part), broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    option = "--target" if part == "target" else "--drafter"
    assert_refused(compare(option, broken), option, str(broken))


def test_corrupt_config(compare: Any, folders: Any, tmp_path: Path) -> None:
    broken = tmp_path / "target"
    shutil.copytree(folders.target, broken)
    (broken / "config.json").write_text('{"model_type": ')
    assert_refused(compare("--target", broken), "--target", str(broken), "JSON")


def test_out_that_cannot_be_written(compare: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    assert_refused(compare("--out", file), "--out", "folder that can be written", str(file))
    assert_refused(
        compare("--out", "/proc/run"), "--out", "folder that can be written", "/proc/run"
    )
