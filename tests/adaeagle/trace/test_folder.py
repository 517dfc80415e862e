"""A trace's folder: what comes back, what is refused, and what is not even opened."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adaeagle.data.prompts import Prompt
from adaeagle.data.splits import Split
from adaeagle.trace import storage
from adaeagle.trace.folder import TraceFolder, load_texts
from adaeagle.trace.manifest import Manifest
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.text import RecordedText

Collect = Callable[..., TraceFolder]
DATA = ["texts/00000.parquet", "tokens/00000.parquet", "nodes/00000.parquet"]
FILES = [*DATA, "features/00000.safetensors"]


def names(texts: list[RecordedText]) -> list[tuple[str, int]]:
    return [(text.prompt_id, text.turn) for text in texts]


def flip_bit(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0b100
    path.write_bytes(content)


def test_texts_come_back_in_the_order_of_their_prompts(
    tmp_path: Path,
    collect: Collect,
    answers: Callable[..., list[RecordedText]],
    assert_same_text: Callable[..., None],
) -> None:
    folder = collect(tmp_path, numbers=[2, 0, 1])
    assert folder.complete
    texts = load_texts(tmp_path)
    assert names(texts) == [("a", 0), ("b/1", 0), ("c", 0), ("c", 1), ("ü d", 0), ("e", 0)]
    expected = [text for prompt_id in folder.manifest.prompt_ids for text in answers(prompt_id)]
    for one, other in zip(texts, expected, strict=True):
        assert_same_text(one, other)


@pytest.mark.parametrize("kind", ["eagle", "model"])
def test_what_a_recorder_gives_comes_back(
    tmp_path: Path,
    manifest: Manifest,
    make_pair: Callable[..., Any],
    assert_same_text: Callable[..., None],
    kind: str,
) -> None:
    policies = ["chain(length=3)", "eagle2(depth=2, width=12)"]
    target, drafter = make_pair(kind)
    recorder = Recorder(target, drafter, policies, max_new_tokens=6)
    texts = [
        text for name in ("a", "c") for text in recorder.record(Prompt(name, token_ids=(3, 4, 5)))
    ]
    TraceFolder.create(tmp_path, manifest).add(0, texts)
    for one, other in zip(load_texts(tmp_path), texts, strict=True):
        assert_same_text(one, other)
        assert one.envelope.num_ranks == 12
        assert one.envelope.is_ragged == other.envelope.is_ragged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_keep_their_precision(
    tmp_path: Path, manifest: Manifest, make_text: Callable[..., RecordedText], dtype: torch.dtype
) -> None:
    folder = TraceFolder.create(tmp_path, manifest)
    texts = [make_text(name, dtype=dtype, has_draft_features=True) for name in ("a", "c")]
    folder.add(0, texts)
    for one, other in zip(folder.texts(), texts, strict=True):
        for kind in ("features", "draft_features"):
            found, expected = getattr(one, kind), getattr(other, kind)
            assert found.dtype == dtype
            assert torch.equal(found, expected)


def test_features_of_one_storage_are_told_apart(
    tmp_path: Path, manifest: Manifest, make_text: Callable[..., RecordedText]
) -> None:
    """The recorder may cut all from one forward; safetensors refuses shared memory."""
    whole = make_text("a", has_draft_features=True).draft_features
    assert whole is not None
    first = replace(make_text("a"), features=whole[:, :8], draft_features=whole)
    second = replace(make_text("c"), features=whole[1:, 8:])
    folder = TraceFolder.create(tmp_path, manifest)
    folder.add(0, [first, second])
    found = folder.texts()
    assert torch.equal(found[0].features, whole[:, :8])
    assert torch.equal(found[1].features, whole[1:, 8:])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_features_are_mapped(tmp_path: Path, collect: Collect) -> None:
    collect(tmp_path)
    texts = load_texts(tmp_path)
    mapped = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "features" / "00000.safetensors") in mapped
    texts[0].features.zero_()  # a private copy: the file stays as it was
    assert load_texts(tmp_path)[0].features.abs().sum() > 0


def test_the_same_texts_give_the_same_bytes(
    tmp_path: Path, collect: Collect, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    collect(tmp_path / "one")
    collect(tmp_path / "other", numbers=[1, 2, 0])
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert len(contents(tmp_path / "one")) == 1 + 3 * 5


@pytest.mark.parametrize(
    ("split", "expected"),
    [("tune", [("a", 0), ("c", 0), ("c", 1), ("e", 0)]), ("test", [("b/1", 0), ("ü d", 0)])],
)
def test_a_split_is_read_without_opening_the_other(
    tmp_path: Path, collect: Collect, split: Split, expected: list[tuple[str, int]]
) -> None:
    folder = collect(tmp_path)
    for number, shard in enumerate(folder.manifest.shards):
        if shard.split != split:
            for name in storage.FOLDERS:
                for file in (tmp_path / name).glob(f"{number:05d}.*"):
                    file.write_bytes(b"a marker")
    assert names(load_texts(tmp_path, split=split)) == expected


def test_single_prompts_are_read(tmp_path: Path, collect: Collect) -> None:
    collect(tmp_path)
    (tmp_path / "nodes" / "00000.parquet").write_bytes(b"a marker")  # of a and c
    texts = load_texts(tmp_path, prompt_ids=["e", "b/1"])
    assert names(texts) == [("b/1", 0), ("e", 0)]
    assert load_texts(tmp_path, prompt_ids=["b/1"], split="tune") == []
    with pytest.raises(ValueError, match=r"prompt_ids must be of .*, got nobody"):
        load_texts(tmp_path, prompt_ids=["e", "nobody"])
    with pytest.raises(ValueError, match="split must be tune or test, got 'train'"):
        load_texts(tmp_path, split="train")  # type: ignore[arg-type]


def test_what_there_is_of_a_trace_is_read(tmp_path: Path, collect: Collect) -> None:
    folder = collect(tmp_path, numbers=[1])
    assert (folder.complete, folder.missing, folder.num_recorded) == (False, [0, 2], 2)
    assert names(load_texts(tmp_path)) == [("b/1", 0), ("ü d", 0)]
    collect(tmp_path)
    assert (folder.complete, folder.num_recorded) == (True, 5)


def test_a_shard_without_its_record_is_not_there(tmp_path: Path, collect: Collect) -> None:
    folder = collect(tmp_path)
    (tmp_path / "shards" / "00000.json").unlink()
    assert folder.missing == [0]
    assert names(load_texts(tmp_path)) == [("b/1", 0), ("ü d", 0), ("e", 0)]


def test_a_shard_holds_its_prompts_alone(
    tmp_path: Path, manifest: Manifest, make_text: Callable[..., RecordedText]
) -> None:
    folder = TraceFolder.create(tmp_path, manifest)
    with pytest.raises(ValueError, match=r"shard 0 must hold \['a', 'c'\], got \['a'\]"):
        folder.add(0, [make_text("a")])
    assert folder.missing == [0, 1, 2]


def test_records_count(tmp_path: Path, collect: Collect) -> None:
    records = collect(tmp_path).records
    texts = load_texts(tmp_path)
    assert sum(record.num_texts for record in records) == len(texts) == 6
    assert sum(record.num_positions for record in records) == 6 * 6
    assert sum(record.num_tokens for record in records) == 6 * 7
    num_nodes = sum(text.envelope.num_nodes for text in texts)
    assert sum(record.num_nodes for record in records) == num_nodes > 100
    files = [file for name in storage.FOLDERS[:-1] for file in (tmp_path / name).iterdir()]
    assert sum(r.num_bytes for r in records) == sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_a_flipped_bit_is_refused(
    tmp_path: Path, collect: Collect, name: str, place: float
) -> None:
    collect(tmp_path)
    flip_bit(tmp_path / name, place)
    with pytest.raises(ValueError, match=rf"{name} must have the SHA-256 .* delete the shard's"):
        load_texts(tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_or_missing_file_is_refused(
    tmp_path: Path, collect: Collect, name: str, verify: bool
) -> None:
    collect(tmp_path)
    path = tmp_path / name
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(ValueError, match=f"{name} must be of {size} bytes, got {size - 1}"):
        load_texts(tmp_path, verify=verify)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load_texts(tmp_path, verify=verify)


def test_damage_is_mended_by_recording_again(
    tmp_path: Path, collect: Collect, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    collect(tmp_path / "one")
    collect(tmp_path / "other")
    flip_bit(tmp_path / "one" / "nodes" / "00001.parquet", 0.5)
    (tmp_path / "one" / "shards" / "00001.json").unlink()
    collect(tmp_path / "one")
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


@pytest.mark.parametrize("name", storage.FOLDERS)
def test_files_that_changed_places_are_refused(tmp_path: Path, collect: Collect, name: str) -> None:
    collect(tmp_path)
    one, other = sorted((tmp_path / name).iterdir())[:2]
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    with pytest.raises(ValueError, match=f"{name}/00000.* must "):
        load_texts(tmp_path)


def test_a_shard_of_another_trace_is_refused(tmp_path: Path, collect: Collect) -> None:
    """Of the same prompts, so everything but the models fits."""
    collect(tmp_path / "one")
    collect(tmp_path / "other", target_weights="ffff")
    for name in storage.FOLDERS:
        [found] = (tmp_path / "other" / name).glob("00001.*")
        shutil.copy(found, tmp_path / "one" / name)
    with pytest.raises(ValueError, match=r"00001.json is of another trace"):
        load_texts(tmp_path / "one")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"a"', b"{}", b'{"trace": "", "files": {"a": {}}}', b"\xff"]
)
def test_a_damaged_record_is_refused(tmp_path: Path, collect: Collect, content: bytes) -> None:
    collect(tmp_path)
    (tmp_path / "shards" / "00002.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"00002.json is damaged, delete"):
        load_texts(tmp_path)


def test_every_flip_in_a_record_or_the_manifest_is_noticed(
    tmp_path: Path, collect: Collect
) -> None:
    """But in counts, and in what no trace depends on."""
    collect(tmp_path)
    told = {b'"num_', b'"bytes"', b'"prompts"', b'"cpu"', b'"recorded_on"', b'"hardware"'}
    for name in ("shards/00000.json", "manifest.json"):
        path = tmp_path / name
        whole = path.read_bytes()
        begin = 0
        for line in whole.splitlines(keepends=True):
            place = begin + len(line) // 2
            begin += len(line)
            if any(word in line for word in told) or line.strip() in b"{}],":
                continue
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises((ValueError, FileNotFoundError)):
                load_texts(tmp_path)
        path.write_bytes(whole)
    load_texts(tmp_path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"format": 2, "shards": []}', "format must be 1, got 2"),
        (b'{"target": "tiny"}', "must be the manifest of a trace"),
        (b'{"format": 1, "target": "tiny"}', "must be the manifest of a trace"),
        (b"[1]", "must be the manifest of a trace"),
        (b'{"format": 1, ', "manifest.json"),
        (b"\xff\xfe", "manifest.json"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        load_texts(tmp_path)


def test_a_folder_without_a_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be the folder of a trace, it has no"):
        load_texts(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": "other"}, "target was 'tiny', is 'other'"),
        ({"drafter_weights": "0"}, "the weights of the draft model have changed"),
        ({"dtype": "bfloat16"}, "dtype was 'float32', is 'bfloat16'"),
        ({"max_new_tokens": 10}, "max_new_tokens was 9, is 10"),
        ({"envelope": ["chain"]}, "envelope was"),
        ({"prompts_sha256": "0"}, "the prompts are others"),
        ({"versions": {"torch": "3"}}, "versions.torch was '2', is '3'"),
        ({"generation": {"stop_token_ids": []}}, "generation.stop_token_ids was"),
        ({"shards": []}, "shards was"),
    ],
)
def test_another_recording_is_refused_by_what_differs(
    tmp_path: Path, collect: Collect, changed: dict[str, object], message: str
) -> None:
    collect(tmp_path, numbers=[0])
    with pytest.raises(ValueError, match=f"holds another trace: {message}"):
        collect(tmp_path, **changed)
    assert collect(tmp_path).complete


def test_another_machine_may_go_on(tmp_path: Path, collect: Collect) -> None:
    collect(tmp_path, numbers=[0])
    collect(tmp_path, recorded_on={"hardware": {"cpu": "two"}}, prompts="elsewhere/five.jsonl")
    assert load_texts(tmp_path)
    told = json.loads((tmp_path / "manifest.json").read_bytes())
    assert told["recorded_on"] == {"hardware": {"cpu": "one"}}
