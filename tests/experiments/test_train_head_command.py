"""`adaeagle train-head`: its result, its wrong input, Ctrl-C."""

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from experiments.commands import train_head as command


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"turns": [f"{n} and?"]}) + "\n" for n in range(24)))
    return path


@pytest.fixture
def train(run: Any, folders: Any, data: Path) -> Any:
    def run_train(*arguments: object) -> Any:
        return run(
            *("train-head", "--target", folders.target, "--data", data, "--out", "out"),
            *("--max-steps", 4, "--batch-size", 2, "--window", 48, "--max-new-tokens", 8),
            *("--checkpoint-every", 2, "--accelerator", "cpu", "--devices", 1, *arguments),
        )

    return run_train


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_a_head_is_trained_and_drafts(train: Any, run: Any, folders: Any, prompts: Path) -> None:
    found = train("--json")
    assert found.code == 0, found.stderr
    [line] = found.stdout.splitlines()
    result = json.loads(line)
    assert (result["kind"], result["steps"]) == ("eagle", 4)
    used = run(
        *("generate", "--target", folders.target, "--drafter", result["model"]),
        *("--prompts", prompts, "--limit", 1, "--max-new-tokens", 5, "--json"),
    )
    assert len(json.loads(used.stdout)["token_ids"]) == 5


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_ctrl_c(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Callback, "on_train_batch_end", interrupt)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Lightning ignores Ctrl-C from then on
    found = train()
    assert found.code == 130
    assert found.stdout == ""
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--kind", "tree"), ("--kind must be one of eagle, eagle3, medusa, lm", "'tree'")),
        (("--window", "8"), ("--window must be > max_new_tokens=8, got 8",)),
        (("--learning-rate", "-1"), ("--learning-rate must be > 0, got -1.0",)),
        (("--max-steps", "0"), ("--max-steps", "must be a whole number >= 1, got '0'")),
        (("--data", "nowhere.jsonl"), ("--data", "must be a file of JSON Lines", "nowhere.jsonl")),
        (("--target", "/no/such"), ("--target", "there is no such folder")),
        (("--dtype", "int8"), ("--dtype must be one of float32", "'int8'")),
        (("--accelerator", "abacus"), ("--accelerator abacus", "abacus")),
        (("--out", "/proc/run"), ("--out must be a folder that can be written", "'/proc/run'")),
    ],
)
@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_wrong_input(train: Any, arguments: tuple[str, ...], fragments: tuple[str, ...]) -> None:
    found = train(*arguments)
    assert found.code == 2
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    last = found.stderr.splitlines()[-1]
    assert last.startswith("adaeagle: ")
    for fragment in fragments:
        assert fragment in last


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_too_little_text(train: Any, data: Path) -> None:
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:3]))
    found = train()
    assert found.code == 2
    last = found.stderr.splitlines()[-1]
    assert last.startswith(f"adaeagle: --data {str(data)!r}: ")
    assert "got 3 texts" in last


def test_help_shows_an_example(run: Any) -> None:
    found = run("train-head", "--help")
    assert found.code == 0
    assert command.EXAMPLE.splitlines()[2].startswith("adaeagle train-head --data")
    assert "adaeagle train-head --data" in found.stdout
