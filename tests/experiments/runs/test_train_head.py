"""`train_head` from prompts to a draft model that loads, in one process and in two."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import adaeagle
from adaeagle import EagleDrafter, ModelDrafter, Target
from adaeagle.drafters.medusa import MedusaDrafter
from experiments.runs.train_head import Kind, TrainHeadSettings, train_head
from experiments.runs.training import TrainingFolder, logged, processes

# What two processes run: the launcher starts the script again, so it is a file.
SCRIPT = """
import sys
from pathlib import Path
from experiments.runs.train_head import Kind, TrainHeadSettings, train_head
target, data, out = sys.argv[1:]
train_head(TrainHeadSettings(
    target, Path(data), Path(out), max_steps=4, batch_size=2, window=64, max_new_tokens=8,
    learning_rate=1e-3, warmup_steps=0, checkpoint_every=2, accelerator="cpu", devices=2,
    strategy="ddp", store_features=True,
))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    words = ["cat", "mat", "the", "1", "2", "and", "on", "sat", "counted", "3"]
    answer = "the cat sat on the mat and counted 1 2 3 " * 6
    records = [
        {
            "messages": [
                {"role": "user", "content": f"{a} {b}"},
                {"role": "assistant", "content": answer},
            ]
        }
        for a in words
        for b in words[:3]
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def settings(chat_folder: Path, data: Path, tmp_path: Path) -> TrainHeadSettings:
    return TrainHeadSettings(
        str(chat_folder),
        data,
        tmp_path / "out",
        max_steps=6,
        batch_size=2,
        window=32,
        learning_rate=1e-3,
        warmup_steps=0,
        max_new_tokens=8,
        checkpoint_every=3,
        accelerator="cpu",
        devices=1,
    )


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
@pytest.mark.parametrize("kind", ["eagle", "medusa", "lm"])
def test_it_trains_a_model_that_drafts(settings: TrainHeadSettings, kind: Kind) -> None:
    result = train_head(replace(settings, kind=kind))
    assert result["steps"] == 6
    assert json.loads((settings.out / "result.json").read_text()) == result
    assert json.loads((settings.out / "config.json").read_text())["window"] == 32
    assert "val_loss" in logged(settings.out)
    assert (settings.out / "learning_curve.png").is_file()
    target = Target.from_pretrained(settings.target)
    loaders: dict[str, Any] = {"eagle": EagleDrafter, "medusa": MedusaDrafter, "lm": ModelDrafter}
    drafter = loaders[kind].from_pretrained(result["model"], target)
    plain, drafted = (
        adaeagle.generate(target, used, policy, [0, 1, 70], max_new_tokens=12).token_ids
        for used, policy in ((None, "vanilla"), (drafter, "chain(length=3)"))
    )
    assert plain == drafted


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_an_eagle_head_with_a_draft_vocabulary_is_lossless_and_loads_alike(
    settings: TrainHeadSettings,
) -> None:
    result = train_head(replace(settings, draft_vocab_size=20, unroll=2, token_weight=1.0))
    target = Target.from_pretrained(settings.target)
    drafter = EagleDrafter.from_pretrained(result["model"], target)
    assert drafter.vocab_map is not None
    assert len(drafter.vocab_map) == 20
    own = load_file(sorted((settings.out / "own_text").glob("*.safetensors"))[0])
    assert int(own["token_ids"][-1]) in drafter.vocab_map.tolist()  # what ends every answer
    plain, drafted = (
        adaeagle.generate(target, used, policy, [0, 1, 70], max_new_tokens=12).token_ids
        for used, policy in ((None, "vanilla"), (drafter, "eagle2(depth=3, width=3, nodes=8)"))
    )
    assert plain == drafted


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_stored_features_change_nothing_but_the_work(settings: TrainHeadSettings) -> None:
    computed = train_head(settings)
    stored = train_head(
        replace(settings, out=settings.out.with_name("stored"), store_features=True)
    )
    first, second = (
        load_file(f"{result['model']}/model.safetensors") for result in (computed, stored)
    )
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_a_finished_run_is_not_trained_again(settings: TrainHeadSettings) -> None:
    first = load_file(f"{train_head(settings)['model']}/model.safetensors")
    again = train_head(settings)
    second = load_file(f"{again['model']}/model.safetensors")
    assert again["steps"] == 6
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert json.loads((settings.out / "result.json").read_text()) == again


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_a_finished_run_can_be_lengthened_and_nothing_else(settings: TrainHeadSettings) -> None:
    train_head(settings)
    longer = replace(settings, max_steps=9)
    assert train_head(longer)["steps"] == 9
    assert max(logged(settings.out)["val_loss"]) >= 8
    written = (settings.out / "config.json").read_bytes()
    for change, message in (
        ({"max_steps": 6}, "max_steps must be >= 9"),
        ({"learning_rate": 0.1}, "learning_rate was 0.001, is 0.1"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"kind": "eagle3"}, "kind was 'eagle', is 'eagle3'"),
        ({"num_layers": 2}, "num_layers was None, is 2"),
    ):
        with pytest.raises(ValueError, match=message):
            train_head(replace(longer, **change))
    assert (settings.out / "config.json").read_bytes() == written


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
@pytest.mark.parametrize("what", ["chat_template", "generation_config", "data"])
def test_a_run_does_not_go_on_with_another_text(
    settings: TrainHeadSettings, what: str, tmp_path: Path
) -> None:
    target = Target.from_pretrained(settings.target)
    data = tmp_path / "data.jsonl"
    data.write_bytes(settings.data.read_bytes())
    settings = replace(settings, data=data)
    train_head(settings, target)
    if what == "chat_template":
        assert target.tokenizer is not None
        target.tokenizer.chat_template = "Be terse. " + target.tokenizer.chat_template
    elif what == "generation_config":
        target.model.generation_config.repetition_penalty = 1.5
    else:
        data.write_text(data.read_text().replace("cat", "dog"))
    with pytest.raises(ValueError, match=f"out must be a folder without another run.*{what}"):
        train_head(replace(settings, max_steps=8), target)


def test_the_folder_of_a_model_is_refused_as_it_is(settings: TrainHeadSettings) -> None:
    settings.out.mkdir()
    (settings.out / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"out must be a new folder .* holds config\.json"):
        train_head(settings)
    assert [file.name for file in settings.out.iterdir()] == ["config.json"]


def test_two_processes_do_not_share_a_folder(settings: TrainHeadSettings) -> None:
    with (
        TrainingFolder(settings.out, settings),
        pytest.raises(ValueError, match="no other process writes to"),
    ):
        train_head(settings)


@pytest.mark.parametrize("left", [{"WORLD_SIZE": "2", "RANK": "0"}, {"RANK": "1"}])
def test_what_another_job_left_in_the_environment_counts_for_nothing(
    settings: TrainHeadSettings, left: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert processes(settings) == (0, 1)
    with TrainingFolder(settings.out, settings) as folder:
        folder.finish({})
    assert (settings.out / "result.json").is_file()


@pytest.mark.slow
def test_two_processes_train_one_head(chat_folder: Path, data: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out = tmp_path / "out"
    command = [sys.executable, str(script), str(chat_folder), str(data), str(out)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert json.loads((out / "result.json").read_text())["steps"] == 4
    target = Target.from_pretrained(str(chat_folder))
    EagleDrafter.from_pretrained(str(out / "final"), target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "tree"}, "kind must be .* got 'tree'"),
        ({"max_steps": 0}, "max_steps must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ({"warmup_steps": 6}, r"warmup_steps must be in 0\.\.5, got 6"),
        ({"window": 8}, "window must be > max_new_tokens=8, got 8"),
    ],
)
def test_settings_out_of_range(
    settings: TrainHeadSettings, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)  # type: ignore[arg-type]


def test_data_without_prompts_is_refused(settings: TrainHeadSettings, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "no question"}\n')
    with pytest.raises(ValueError, match="data must hold prompts to answer"):
        train_head(replace(settings, data=path))
