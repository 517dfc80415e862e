"""The whole making of `mini` at toy size, from records to a bundle that loads."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import adaeagle
from adaeagle import EagleDrafter, ModelDrafter, Target
from adaeagle.data.prompts import read_prompts
from experiments.mini import text
from experiments.mini.sources import SOURCES, read_records
from experiments.mini.stages import Mini, Scale
from experiments.mini.tokenizer import train_tokenizer

TOY = Scale(
    chars_a_source=2_000,
    stream_tokens=8_000,
    target_layers=1,
    target_steps=2,
    questions_a_source=2,
    max_new_tokens=6,
    head_steps=2,
    head_batch=2,
    draft_tokens=6_000,
    draft_steps=2,
    prompts_a_source=1,
    compiled=False,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve records of every source and split; one source is plain text."""
    folder = tmp_path_factory.mktemp("data")
    for source in SOURCES:
        for split in ("train", "heldout"):
            lines = []
            for number in range(12):
                words = f"{source.name} {split} {number} and what it says, word by word. " * 4
                record: dict[str, object] = {"id": f"{source.name}/{split}{number}"}
                if source.name == "tldr_pages":
                    record["text"] = words
                else:
                    turns = [
                        {"role": "user", "content": f"What of {number}?"},
                        {"role": "assistant", "content": words},
                    ]
                    record["messages"] = turns * 2
                lines.append(json.dumps(record) + "\n")
            with gzip.open(folder / f"{source.name}.{split}.jsonl.gz", "wt") as file:
                file.writelines(lines)
    return folder


def test_the_shares_are_a_whole() -> None:
    assert sum(source.share for source in SOURCES) == pytest.approx(1.0)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must hold gpteacher_toolformer"):
        next(read_records(tmp_path, SOURCES[0], "train"))


def test_the_mixture_has_the_shares(data: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(text.sample_texts(data, 2_000), vocab_size=400)
    text.write_mixture(tokenizer, data, tmp_path / "stream.npy", 20_000, seed=0)
    stream = np.load(tmp_path / "stream.npy")
    documents = str(tokenizer.decode(stream.tolist())).split("<|bos|>")[1:]
    sizes = {source.name: 0 for source in SOURCES}
    for document in documents:
        name = max((n for n in sizes if f"{n} " in document), key=len)
        sizes[name] += len(tokenizer(document)["input_ids"])
    for source in SOURCES:
        assert sizes[source.name] / len(stream) == pytest.approx(source.share, abs=0.02)


def test_prompts_come_from_every_conversation_source(data: Path) -> None:
    tokenizer = train_tokenizer(text.sample_texts(data, 2_000), vocab_size=400)
    found = list(text.prompts(tokenizer, data, "heldout", a_source=3))
    conversational = [source for source in SOURCES if source.name != "tldr_pages"]
    assert len(found) == 3 * len(conversational)
    assert {len(prompt["turns"]) for prompt in found} == {1, 2}
    assert not list(text.prompts(tokenizer, data, "heldout", a_source=3, max_prompt_tokens=1))


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_the_whole_making(data: Path, tmp_path: Path) -> None:
    out, bundle = tmp_path / "out", tmp_path / "bundle"
    out.mkdir()
    bundle.mkdir()
    mini = Mini(data, out, bundle, TOY)
    report = mini.make()
    assert report["target_loss"] > 0
    assert set(report["tokens_per_round"]) == {
        f"{drafter}, {policy}"
        for drafter in ("eagle head", "draft model")
        for policy in ("chain(length=5)", "eagle2()", "eagle2(depth=5, width=4, nodes=16)")
    }
    assert "# mini" in (bundle / "README.md").read_text()
    attribution = (bundle / "ATTRIBUTION.md").read_text()
    assert all(source.origin in attribution for source in SOURCES)

    target = Target.from_pretrained(str(bundle / "target"))
    assert target.dtype == torch.float32
    stored = load_file(bundle / "target" / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    prompt = read_prompts(str(bundle / "prompts.jsonl"))[0]
    prompt_ids = target.encode_chat([{"role": "user", "content": prompt.turns[0]}])
    head = EagleDrafter.from_pretrained(str(bundle / "eagle_head"), target)
    draft = ModelDrafter.from_pretrained(str(bundle / "draft_lm"), target)
    texts = [
        adaeagle.generate(target, drafter, policy, prompt_ids, max_new_tokens=5).token_ids
        for drafter, policy in ((None, "vanilla"), (head, "eagle2()"), (draft, "chain(length=3)"))
    ]
    assert texts[0] == texts[1] == texts[2]

    weights = (bundle / "eagle_head" / "model.safetensors").read_bytes()
    checkpoint = (out / "target" / "last.ckpt").stat().st_mtime_ns
    mini.make()  # finished stages are kept
    assert (out / "target" / "last.ckpt").stat().st_mtime_ns == checkpoint
    assert (bundle / "eagle_head" / "model.safetensors").read_bytes() == weights
