import gzip
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from adaeagle.data.conversations import read_records
from adaeagle.data.prompts import Prompt, read_prompts

LS = {"role": "user", "content": "List all files."}
SAYS = {
    "question_id": ({"question_id": 1, "turns": ["List all files."], "reference": ["ls"]}, "1", ""),
    "messages": ({"messages": [{"role": "system", "content": "Be brief."}, LS]}, "1", "Be brief."),
    "conversations": (
        {
            "id": "x",
            "conversations": [
                {"from": "human", "value": "List all files."},
                {"from": "gpt", "value": "ls"},
            ],
        },
        "x",
        "",
    ),
    "prompt": ({"prompt": "List all files."}, "1", ""),
    "messages as prompt": ({"prompt": [LS]}, "1", ""),
    "parts": (
        {"messages": [{**LS, "content": [{"type": "text", "text": LS["content"]}]}]},
        "1",
        "",
    ),
    "nulls": ({"id": None, "turns": None, "messages": [], "prompt": LS["content"]}, "1", ""),
}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("form", SAYS)
def test_every_form_is_the_same_prompt(tmp_path: Path, form: str) -> None:
    record, name, system = SAYS[form]
    path = write(tmp_path / "p.jsonl", record)
    assert read_prompts(str(path)) == [Prompt(name, ("List all files.",), system=system)]


def test_files_in_every_dress(tmp_path: Path) -> None:
    records = [{"prompt": "a"}, {"prompt": "b"}]
    lines = b"\n\n".join(json.dumps(record).encode() for record in records)
    for name, content in {
        "blank.jsonl": b"\n" + lines + b"\n\n",
        "mark.jsonl": b"\xef\xbb\xbf" + lines,
        "array.json": json.dumps(records, indent=1).encode(),
        "zipped.jsonl.gz": gzip.compress(lines),
        "plain.txt": b"a\r\n\nb\n",
        "plain.txt.gz": gzip.compress(b"a\nb\n"),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        asked = [record.questions[0]["content"] for record in read_records(path)]
        assert asked == ["a", "b"], name
    assert len(read_records(tmp_path / "array.json", limit=1)) == 1


def test_a_pipe_is_read_once_for_all_its_readers(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text('{"prompt": "a"}\n'))
    writer.start()
    assert read_prompts(str(pipe)) == read_prompts(str(pipe)) == [Prompt("1", ("a",))]
    writer.join()


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        ({"question": "a"}, r"must hold one of turns, messages, .*got the keys \['question'\]"),
        ({"messages": [{"content": "x"}]}, "each role in messages must be one of .*, got None"),
        ({"messages": [{"role": "user", "content": None}]}, "content in messages must be text"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "must hold a message of the user"),
        ({"messages": "x"}, "messages must be a list of objects, got 'x'"),
        ({"prompt": 7}, "prompt must be text, got 7"),
        ({"turns": "a"}, "turns must be a list of strings, got 'a'"),
        ({"turns": ["a", None]}, "turns must be a list of strings"),
        ({"turns": ["a", " "]}, "turns must not be empty, got ' '"),
        ({"token_ids": [1, "2"]}, "token_ids must be a list of whole numbers"),
        ({"prompt": "a\ud83d"}, "must be Unicode text"),
        ({"id": 1.5, "prompt": "a"}, "id must be a string or a number, got 1.5"),
        ([1], "must be a JSON object"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(tmp_path: Path, record: Any, rule: str) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "fine"}, record)
    with pytest.raises(ValueError, match=rf"line 2 of .*{rule}"):
        read_records(path)


def test_answers_are_kept_for_training_alone(tmp_path: Path) -> None:
    told = [LS, {"role": "assistant", "content": "ls"}]
    [record] = read_records(write(tmp_path / "p.jsonl", {"messages": told}))
    assert list(record.messages) == told
    assert record.questions == [LS]


def test_what_a_prompt_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1 of .* must hold a prompt, got text alone"):
        read_prompts(str(write(tmp_path / "t.jsonl", {"text": "once"})))
    late = {"messages": [LS, {"role": "system", "content": "Be brief."}]}
    with pytest.raises(ValueError, match="a system message must be one, and the first one"):
        read_prompts(str(write(tmp_path / "s.jsonl", late)))
    twice = write(tmp_path / "d.jsonl", {"id": 1, "prompt": "a"}, {"id": "1", "prompt": "b"})
    with pytest.raises(ValueError, match=r"line 2 of .*: id must be unique, got '1' again"):
        read_prompts(str(twice))
