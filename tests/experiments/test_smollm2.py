"""The making of SmolLM2's heads at toy size, and its fast generation against plain decoding."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import adaeagle
from adaeagle import EagleDrafter, Target
from adaeagle.data.prompts import read_prompts
from adaeagle.data.splits import split_of
from experiments.smollm2 import own_text, paper
from experiments.smollm2.generate import answer
from experiments.smollm2.prompts import SHARES, prompts
from experiments.smollm2.stages import Scale, SmolLM2

TOY = Scale(
    head_steps=2,
    head_batch=2,
    draft_vocab_size=16,
    window=240,
    precision="32-true",
    prompts_a_task=1,
    max_new_tokens=6,
)


def test_answers_are_those_of_plain_decoding(
    make_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    """More prompts than rows, of other lengths: rows are taken again."""
    target = Target(make_model("llama"))
    generator = torch.Generator().manual_seed(0)
    asked = [
        (str(i), torch.randint(1, 90, (size,), generator=generator).tolist())
        for i, size in enumerate((3, 7, 2, 9, 4, 5, 8))
    ]
    out = tmp_path / "own.jsonl"
    num_tokens = answer(target, iter(asked), out, num_rows=3, max_new_tokens=8)
    texts = list(own_text.read_texts(out))
    assert sorted(text["id"] for text in texts) == [name for name, _ in asked]
    assert num_tokens == sum(len(text["answer_ids"]) for text in texts)
    for text in texts:
        plain = adaeagle.generate(target, None, "vanilla", text["prompt_ids"], max_new_tokens=8)
        assert text["answer_ids"] == plain.token_ids


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    text = {"id": "a", "prompt_ids": [1], "answer_ids": [2]}
    file.write_text(json.dumps(text) + "\n" + json.dumps(text)[:9])
    assert list(own_text.read_texts(file)) == [text]


def test_prompts_take_turns_and_leave_out_what_is_answered(
    chat_folder: Path, tmp_path: Path
) -> None:
    target = Target.from_pretrained(str(chat_folder))
    for name in ("gsm8k", "nl2bash"):
        with gzip.open(tmp_path / f"{name}.train.jsonl.gz", "wt") as file:
            for number in range(8):
                words = "the cat " * (200 if number == 1 else 1)
                record = {
                    "id": f"{name}/{number}",
                    "messages": [{"role": "user", "content": words}],
                }
                file.write(json.dumps(record) + "\n")
    found = [name for name, _ in prompts(target, tmp_path, {"gsm8k/0"}, 60)]
    assert found[: SHARES["gsm8k"]] == [f"gsm8k/{number}" for number in range(2, 7)]
    assert found[SHARES["gsm8k"] :] == [
        "nl2bash/0", "nl2bash/2", "gsm8k/7", "nl2bash/3", "nl2bash/4", "nl2bash/5", "nl2bash/6",
        "nl2bash/7",
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"must hold files such as gsm8k"):
        next(prompts(target, tmp_path / "none", set(), 60))


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_from_text_to_a_bundle_that_loads(
    chat_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed, task = tmp_path / "own_text.jsonl.gz", tmp_path / "eagle_task.jsonl"
    with gzip.open(committed, "wt") as file:
        for number in range(40):
            text = {
                "id": str(number),
                "prompt_ids": [0, 5, number + 4],
                "answer_ids": [7, 8, 9] * 4 + [1],
            }
            file.write(json.dumps(text) + "\n")
    monkeypatch.setattr(own_text, "COMMITTED", committed)
    task.write_text(json.dumps({"id": "1", "category": "c", "turns": ["the cat"]}) + "\n")
    making = SmolLM2(
        tmp_path / "out", tmp_path / "bundle", tasks=(task,), scale=TOY, target=str(chat_folder)
    )
    report = making.make()
    assert report["steps"] == 2
    assert set(report["tokens_per_round"]) == {
        "eagle_task, chain(length=5)",
        "eagle_task, eagle2(depth=6, width=10, nodes=59)",
    }
    assert "| eagle_task | " in (tmp_path / "bundle" / "README.md").read_text()
    weights = tmp_path / "out" / "eagle_head" / "final" / "model.safetensors"
    changed = weights.stat().st_mtime_ns
    assert making.make() == report  # nothing is trained again
    assert weights.stat().st_mtime_ns == changed
    target = Target.from_pretrained(str(chat_folder))
    drafter = EagleDrafter.from_pretrained(str(tmp_path / "bundle" / "eagle_head"), target)
    assert drafter.vocab_map is not None
    assert {7, 8, 9, 1} <= set(drafter.vocab_map.tolist())


@pytest.mark.parametrize("name", ["{task}/question.jsonl", "eagle_{task}.jsonl"])
def test_tasks_give_as_many_prompts_each_and_both_halves_have_all_tasks(
    name: str, tmp_path: Path
) -> None:
    for task in paper.TASKS:
        path = tmp_path / name.format(task=task)
        path.parent.mkdir(exist_ok=True)
        lines = ({"id": str(n), "turns": [f"{task} {n}", "and then?"]} for n in range(9))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompts = paper.chosen_prompts(tmp_path, 4)
    assert [prompt.category for prompt in prompts] == [t for t in paper.TASKS for _ in range(4)]
    assert prompts == paper.chosen_prompts(tmp_path, 4)
    assert all(len(prompt.turns) == 1 for prompt in prompts)
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    split = split_of(prompts)
    halves = {(prompt.category, split[prompt.id]) for prompt in prompts}
    assert halves == {(task, half) for task in paper.TASKS for half in ("tune", "test")}
    assert read_prompts(paper.write_prompts(prompts, tmp_path / "chosen.jsonl")) == prompts
