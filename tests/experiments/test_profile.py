"""`adaeagle profile` as its users see it."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaeagle.bench.run_folder import RunFolder
from adaeagle.cost.model import LOOKUP_SECONDS, CostModel

GRID = ("--widths", 1, 3, "--nodes", 6, 2, "--contexts", 60, "--rounds", 1)
LAST_LINE = (
    *("out", "num_texts", "num_rounds", "seconds", "context", "chain_draft_ms", "tree_draft_ms"),
    *("chain_verify_ms", "tree_verify_ms", "chain_other_ms", "tree_other_ms"),
    "quality",
)


@pytest.fixture
def profile(run: Any, folders: Any, prompts: Path) -> Any:
    """Runs `adaeagle profile` on the tiny models and a small grid."""

    def run_profile(*arguments: object) -> Any:
        return run(
            *("profile", "--target", folders.target, "--drafter", folders.head),
            *("--prompts", prompts, "--device", "cpu", *GRID, *arguments),
        )

    return run_profile


def test_it_writes_a_cost_model_and_a_picture(profile: Any, folders: Any) -> None:
    found = profile("--out", "runs/one")
    assert found.code == 0
    model = CostModel.load("runs/one/cost.json")
    assert model.tree.verify.sizes.tolist() == [0, 2, 6]
    assert model.tree.second.sizes.tolist() == [2, 3]
    assert model.tree.next.sizes.tolist() == [1, 3]
    assert model.chain.verify.contexts.tolist() == [60]
    assert int(model.tree.verify.count.min()) >= 1
    assert 0 < model.lookup < 1
    assert model.lookup != LOOKUP_SECONDS
    about = model.about
    assert about["config"]["target"] == str(folders.target)
    assert about["config"]["drafter"] == str(folders.head)
    assert (about["config"]["dtype"], about["config"]["threads"]) == ("float32", 1)
    assert about["hardware"]["cpu"]
    assert about["versions"]["torch"]
    assert about["date"].startswith("20")
    assert Path("runs/one/cost.png").read_bytes().startswith(b"\x89PNG")
    *shown, last = found.stdout.splitlines()
    line = json.loads(last)
    assert tuple(line) == LAST_LINE
    assert line["chain_verify_ms"]["0"] == pytest.approx(
        1000 * float(model.chain.verify.median[0, 0]), abs=1e-3
    )
    text = "\n".join(shown)
    for expected in ("a verification, ms by context", "chain", "runs/one/cost.json"):
        assert expected in text


def test_texts_side_by_side(profile: Any) -> None:
    assert profile("--batch-sizes", 2, 3, "--out", "runs/batches").code == 0
    model = CostModel.load("runs/batches/cost.json")
    assert set(model.batches) == {2, 3}
    for size, own in model.batches.items():
        assert own.tree.verify.sizes.tolist() == [0, 2 * size, 6 * size]
        assert int(own.tree.verify.count.min()) >= 1


def test_json_alone(profile: Any) -> None:
    found = profile("--out", "runs/one", "--json")
    [line] = found.stdout.splitlines()
    assert json.loads(line)["out"] == "runs/one"
    assert "a verification" in found.stderr


def test_seconds_in_place_of_samples(profile: Any) -> None:
    """However short the time, every cell gets a few samples."""
    found = profile("--seconds", 0.01, "--rounds", 1000, "--out", "runs/one", "--json")
    assert found.code == 0
    assert int(CostModel.load("runs/one/cost.json").chain.verify.count.min()) >= 3


def test_an_interrupted_profile_goes_on(profile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    append = RunFolder.append
    kept: list[Any] = []

    def failing(self: RunFolder, record: Any) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(record)
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", failing)
        broken = profile("--out", "runs/torn")
    assert (broken.code, broken.stdout) == (130, "")
    assert "2 texts are kept in runs/torn" in broken.stderr
    assert not Path("runs/torn/cost.json").exists()
    resumed = profile("--out", "runs/torn", "--json")
    assert "2 texts were measured in runs/torn" in resumed.stderr
    lines = Path("runs/torn/records.jsonl").read_text().splitlines()
    assert [json.loads(line)["ended"] for line in lines[:2]] == [text.ended for text in kept]
    assert json.loads(resumed.stdout)["num_texts"] == len(lines) > 2
    # Finished: shown again, not measured again, and not changed unless that is wanted.
    again = profile("--out", "runs/torn", "--json")
    assert again.stdout == resumed.stdout
    before = Path("runs/torn/cost.json").read_bytes()
    more = ("--out", "runs/torn", "--rounds", 9)
    assert_refused(profile(*more), "--rounds and --seconds would change the table in runs/torn")
    assert Path("runs/torn/cost.json").read_bytes() == before
    assert profile(*more, "--overwrite").code == 0
    assert Path("runs/torn/cost.json").read_bytes() != before


def assert_refused(found: Any, *fragments: str) -> None:
    assert (found.code, found.stdout) == (2, "")
    assert found.stderr.count("adaeagle: ") == 1, found.stderr
    for fragment in fragments:
        assert fragment in found.stderr


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--widths", "0"), ("--widths", "whole number >= 1", "'0'")),
        (("--nodes", "4", "many"), ("--nodes", "whole number >= 1", "'many'")),
        (("--rounds", "0"), ("--rounds", ">= 1", "'0'")),
        (("--seconds", "0"), ("--seconds", "> 0", "0")),
        (("--seconds", "soon"), ("--seconds", "must be a number", "'soon'")),
        (("--contexts", "60", "700"), ("--contexts must be in 33..462", "got (60, 700)")),
        (("--contexts", "5"), ("--contexts must be in 33..", "got (5, 60)")),
        (("--widths", "200"), ("--widths must be <= 96 draft tokens", "200")),
        (("--out", "/proc/run"), ("--out", "folder that can be written", "/proc/run")),
    ],
)
def test_wrong_input(profile: Any, arguments: tuple[str, ...], fragments: tuple[str, ...]) -> None:
    assert_refused(profile(*arguments), *fragments)


def test_another_profile_in_the_folder(profile: Any) -> None:
    profile("--out", "runs/one")
    found = profile("--out", "runs/one", "--nodes", 7)
    assert_refused(found, "--out", "holds another run", "nodes was")
