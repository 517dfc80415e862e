"""`train_head` from prompts to a draft model that loads, in one process and in two."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import adaeagle
from adaeagle import EagleDrafter, ModelDrafter, Target
from experiments.runs.train_head import Kind, TrainHeadSettings, train_head

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
@pytest.mark.parametrize("kind", ["eagle", "lm"])
def test_it_trains_a_model_that_drafts(settings: TrainHeadSettings, kind: Kind) -> None:
    result = train_head(replace(settings, kind=kind))
    assert result["steps"] == 6
    assert json.loads((settings.out / "result.json").read_text()) == result
    assert json.loads((settings.out / "config.json").read_text())["window"] == 32
    assert list(settings.out.glob("log/version_*/metrics.csv"))
    target = Target.from_pretrained(settings.target)
    loader = EagleDrafter if kind == "eagle" else ModelDrafter
    drafter = loader.from_pretrained(result["model"], target)
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
