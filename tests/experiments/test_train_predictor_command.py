"""`adaeagle train-predictor` as a user types it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adaeagle.cost.model import CostModel
from adaeagle.testing.toy_trace import toy_folder, toy_trace
from experiments.runs import train_predictor as training

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs

DISCO = "disco(shape='chain(length=8)')"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace")
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 9, (4, 30), generator=generator).tolist()
    toy_folder(path, toy_trace(lengths))
    return path


@pytest.fixture
def train(run: Any, trace: Path, tmp_path: Path) -> Any:
    def call(*arguments: str) -> Any:
        given = ("--trace", str(trace), "--out", str(tmp_path / "it"), "--accelerator", "cpu")
        return run("train-predictor", *given, "--devices", "1", *arguments)

    return call


def test_one_command(train: Any, tmp_path: Path) -> None:
    code, out, _ = train("--kind", DISCO, "--max-steps", "4")
    assert code == 0
    told = json.loads(out)
    assert told["kind"] == "disco"
    assert told["steps"] == 4
    assert (tmp_path / "it" / "model.safetensors").is_file()
    assert train("--kind", DISCO, "--max-steps", "4")[1] == out  # finished: told again


def test_ctrl_c(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise SystemExit(1)  # how Lightning ends after Ctrl-C

    monkeypatch.setattr(training, "train_predictor", stop)
    assert train("--kind", DISCO)[0] == 130


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--kind", "ldpl"), ("--kind 'ldpl'", "did you mean 'ldlp'", "isotonic")),
        (("--kind", "disco(hidden=3)"), ("--kind", "unknown argument 'hidden' of disco")),
        (("--trace", "nowhere"), ("--trace 'nowhere'", "has no manifest.json")),
        (("--cost", "nowhere"), ("--cost 'nowhere'", "No such file")),
        (("--logger", "wandb"), ("--logger must be one of csv, tensorboard, got 'wandb'",)),
        (("--max-steps", "0"), ("--max-steps", ">= 1", "'0'")),
        (("--learning-rate", "0"), ("--learning-rate must be > 0, got 0",)),
        (("--validation-share", "1"), ("--validation-share must be in (0, 1), got 1",)),
        (("--accelerator", "abacus"), ("the devices", "abacus")),
        (
            ("--kind", "ldlp(labels='dp', use_embedding=False)"),
            ("--cost must be given for ldlp", "got none"),
        ),
        (
            ("--kind", "ldlp(k_max=8)", "--target", "/no/such"),
            ("--target must be the trace's", "got /no/such"),
        ),
        (
            ("--kind", "disco(shape='chain(length=9)')"),
            ("--trace", "shape must be one that was recorded, got chain(length=9)"),
        ),
    ],
)
def test_wrong_input(train: Any, arguments: tuple[str, ...], fragments: tuple[str, ...]) -> None:
    code, out, err = train(*arguments)
    assert code == 2
    assert out == ""
    [line] = [line for line in err.splitlines() if line.startswith("adaeagle: ")]
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in line


def test_another_run_in_the_folder(train: Any) -> None:
    assert train("--kind", DISCO, "--max-steps", "2")[0] == 0
    code, _, err = train("--kind", DISCO, "--max-steps", "2", "--seed", "1")
    assert code == 2
    assert "--out must be a folder without another run" in err
    assert "seed was 0, is 1" in err
    assert train("--kind", DISCO, "--max-steps", "2", "--seed", "1", "--no-resume")[0] == 0
    code, _, err = train("--kind", DISCO, "--max-steps", "1", "--seed", "1")
    assert code == 2
    assert "--max-steps must be >= 2" in err


def test_wrong_input_does_not_spoil_the_folder(train: Any, tmp_path: Path) -> None:
    assert train("--kind", "disco(shape='chain(length=9)')")[0] == 2
    assert not (tmp_path / "it" / "settings.json").exists()
    assert train("--kind", DISCO, "--max-steps", "2")[0] == 0


def test_help_shows_an_example(run: Any) -> None:
    code, out, _ = run("train-predictor", "--help")
    assert code == 0
    assert "adaeagle train-predictor --trace runs/trace" in out


@pytest.mark.parametrize("command", ["compare", "generate", "audit", "replay"])
def test_a_predictor_of_other_models_is_refused_before_anything_runs(
    command: str, train: Any, run: Any, folders: Any, prompts: Path, tmp_path: Path
) -> None:
    assert train("--kind", DISCO, "--max-steps", "2")[0] == 0
    spec = f"disco(predictor='{tmp_path / 'it'}')"
    models = ("--target", str(folders.target), "--drafter", str(folders.head))
    asked = ("--prompts", str(prompts), "--max-new-tokens", "8")
    if command == "replay":
        recorded = ("--envelope", "chain(length=4)", "--out", str(tmp_path / "trace"))
        assert run("trace", *models, *asked, *recorded)[0] == 0
        cost = CostModel.linear(constant=0.1, draft=0.1, verify=1.0)
        cost.save(tmp_path / "trace" / "cost.json")
        given: tuple[str, ...] = (str(tmp_path / "trace"), "--policies", spec)
    else:
        option = "--policy" if command == "generate" else "--policies"
        given = (*models, *asked, option, spec)
    code, _, err = run(command, *given)
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith("adaeagle: --polic")
    assert "target of predictor disco must be the one it was trained for, toy" in last
