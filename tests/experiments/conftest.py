"""A pair of tiny models on disk, prompts for it, and the command run in this process."""

import json
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adaeagle.drafters.eagle_head import EagleHead
from adaeagle.drafters.head_files import write_head
from experiments.cli import main

CHARACTERS = [c for c in string.printable if c.isprintable()]  # 95


class Folders(NamedTuple):
    """Where the tiny models lie."""

    target: Path
    head: Path
    wrong_head: Path  # of another hidden size


@pytest.fixture(scope="session")
def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a printable ASCII character."""
    vocab = {character: number for number, character in enumerate(["?unk", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="?unk"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def folders(
    tmp_path_factory: pytest.TempPathFactory,
    make_pair: Any,
    character_tokenizer: PreTrainedTokenizerFast,
) -> Folders:
    target, drafter = make_pair("eagle")
    home = tmp_path_factory.mktemp("models")
    found = Folders(home / "target", home / "head", home / "wrong_head")
    target.model.save_pretrained(found.target)
    character_tokenizer.save_pretrained(found.target)
    drafter.save_pretrained(found.head)
    config = replace(drafter.head.config, hidden_size=2 * target.hidden_size)
    write_head(found.wrong_head, config.to_json(), EagleHead(config))
    return found


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Four prompts of two sources, one of them of two turns and one of token ids."""
    path = tmp_path / "prompts.jsonl"
    lines: list[dict[str, Any]] = [
        {"id": 1, "source": "near", "category": "short", "turns": ["What is near?"]},
        {"id": 2, "source": "near", "category": "short", "turns": ["Who is?", "And who was?"]},
        {"id": 3, "source": "far", "category": "short", "turns": ["What is far away?"]},
        {"id": "four", "source": "far", "category": "short", "token_ids": [5, 6, 7, 8]},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `adaeagle` with these arguments, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run_command


@pytest.fixture
def compare(run: Run, folders: Folders, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `adaeagle compare` on the tiny models, a few tokens a prompt, and draws nothing."""
    monkeypatch.setattr("experiments.runs.compare.draw_all", lambda *_: [])

    def run_compare(*arguments: object) -> Outcome:
        return run(
            *("compare", "--target", folders.target, "--drafter", folders.head),
            *("--prompts", prompts, "--max-new-tokens", 12, "--device", "cpu"),
            *arguments,
        )

    return run_compare
