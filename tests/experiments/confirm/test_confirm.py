"""The command from end to end on tiny models, its page, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from adaeagle.trace.folder import TraceFolder
from experiments.confirm.leaderboard import Evidence, leaderboard, references
from experiments.confirm.page import Page, render
from experiments.confirm.running import notes
from experiments.confirm.tuned import Family
from experiments.report.pages import png_picture

HOSTILE = "</style><script>document.title='broken'</script>"
VOID = {"meta", "img", "br"}


class Elements(HTMLParser):
    """A page's elements; fails where they are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def last_line(found: Any) -> dict[str, Any]:
    assert found.code == 0, found.stderr
    line: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return line


@pytest.fixture
def home(swept: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a sweep, which the commands are run in."""
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_best_of_each_family_runs_live_on_test_prompts(run: Any, home: Path) -> None:
    line = last_line(run("confirm", "sweep", "--out", "confirm"))
    found = json.loads((home / "confirm" / "results.json").read_text())
    assert {entry["family"] for entry in found["families"]} == {"chain", "confidence"}
    speeds = [entry["tuned"]["speedup"] for entry in found["families"]]
    assert speeds == sorted(speeds, reverse=True)
    assert [each["speedup"] for each in line["families"]] == speeds
    manifest = TraceFolder.open(home / "trace").manifest
    test = {i for shard in manifest.shards if shard.split == "test" for i in shard.prompt_ids}
    for part in ("live", "replay"):
        results = json.loads((home / "confirm" / part / "results.json").read_text())
        assert {prompt["id"] for prompt in results["per_prompt"]} == test
    best = json.loads((home / "sweep" / "best.json").read_text())["families"]
    for entry in found["families"]:
        assert entry["tuned"]["policy"] == best[entry["family"]]["best"]["policy"]
        assert entry["published"]["policy"] == best[entry["family"]]["published"]["policy"]
    assert found["num_divergences"] == 0
    assert found["num_prompts"] == found["num_test_prompts"] == len(test) == 4
    # The order of arms is turned from prompt to prompt.
    firsts = [prompt["order"][0] for prompt in results_of(home)["per_prompt"]]
    assert len(set(firsts)) == len(firsts)

    page = Elements((home / "confirm" / "confirm.html").read_text("utf-8"))
    assert [e.get("type") for tag, e in page.found if tag == "script"] == ["module"]
    assert HOSTILE in page.text
    policy = next(e["content"] for _, e in page.found if e.get("http-equiv"))
    assert policy is not None
    rules = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    assert policy.startswith(rules)
    for tag, attributes in page.found:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), tag
    for entry in found["families"]:
        assert entry["tuned"]["policy"] in page.text


def results_of(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "confirm" / "live" / "results.json").read_text())
    return found


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and pages take longest, and one with them is enough."""
    monkeypatch.setattr("experiments.confirm.running.render", lambda _: "")


def test_what_there_was_no_time_for_is_run_by_the_next_call(
    run: Any, home: Path, undrawn: None
) -> None:
    command = ("confirm", "sweep", "--out", "confirm")
    assert last_line(run(*command, "--seconds", 0.001))["num_prompts"] == 1
    first = results_of(home)["per_prompt"][0]
    replayed = (home / "confirm" / "replay" / "results.json").read_bytes()
    assert last_line(run(*command))["num_prompts"] == 4
    assert results_of(home)["per_prompt"][0] == first
    assert (home / "confirm" / "replay" / "results.json").read_bytes() == replayed


def test_of_a_family_that_two_sweeps_searched_the_faster_counts(
    run: Any, home: Path, undrawn: None
) -> None:
    shutil.copytree(home / "sweep", home / "again")
    best = json.loads((home / "again" / "best.json").read_text())
    best["families"] = {"chain": best["families"]["chain"]}
    best["families"]["chain"]["best"] |= {"policy": "chain(length=2)", "tokens_per_second": 1e9}
    (home / "again" / "best.json").write_text(json.dumps(best))
    line = last_line(run("confirm", "sweep", "again", "--limit", 1, "--out", "confirm"))
    told = {each["family"]: each["policy"] for each in line["families"]}
    assert told["chain"] == "chain(length=2)"
    assert len(told) == 2


@pytest.mark.parametrize(
    ("break_it", "fragments"),
    [
        (lambda home: shutil.rmtree(home / "sweep"), ("SWEEP must be", "sweep", "no best.json")),
        (lambda home: (home / "sweep" / "best.json").write_text("[]"), ("SWEEP must be",)),
        (lambda home: shutil.rmtree(home / "trace"), ("TRACE 'trace'", "manifest.json")),
        (
            lambda home: (home / "prompts.jsonl").write_text('{"id": "x", "turns": ["y"]}\n'),
            ("--trace 'trace'", "prompts.jsonl", "must be those that were recorded"),
        ),
    ],
)
def test_wrong_input(
    run: Any, home: Path, break_it: Callable[[Path], object], fragments: tuple[str, ...]
) -> None:
    break_it(home)
    assert_refused(run("confirm", "sweep", "--out", "confirm"), *fragments)


def assert_refused(found: Any, *fragments: str) -> None:
    assert found.code == 2
    assert found.stdout == ""
    last = found.stderr.splitlines()[-1]
    assert last.startswith("adaeagle: ")
    for fragment in fragments:
        assert fragment in last


def test_sweeps_must_be_of_one_trace(run: Any, home: Path) -> None:
    shutil.copytree(home / "sweep", home / "other")
    best = json.loads((home / "other" / "best.json").read_text())
    best["identity"]["cost"] = "another"
    (home / "other" / "best.json").write_text(json.dumps(best))
    refused = run("confirm", "sweep", "other", "--out", "confirm")
    assert_refused(refused, "SWEEP 'other' must be of the cost of 'sweep'", "another")
    assert_refused(run("confirm", "sweep", "--seconds", 0), "--seconds must be > 0")
    manifest = json.loads((home / "trace" / "manifest.json").read_text())
    (home / "trace" / "manifest.json").write_text(json.dumps(manifest | {"max_new_tokens": 99}))
    assert_refused(run("confirm", "sweep", "--out", "confirm"), "--trace must be", "another one")


def test_the_page_says_who_over_fitted(evidence: Callable[..., Evidence]) -> None:
    """To texts, where replay on the test split says so too; else to the cost table."""
    names = {"texts": "chain", "costs": "eagle2", "fine": "talon"}
    live = {
        "vanilla": [4.0, 2.0] * 4,
        "fixed": [2.0] * 8,
        "published": [1.0] * 8,
        **{"texts": [1.5] * 8, "costs": [1.5] * 8, "fine": [0.5] * 8},
    }
    given = evidence(live, {**live, "costs": [0.9] * 8})
    families = [
        Family(name, tuned, "published", 120.0, 100.0, 5, "sweep") for tuned, name in names.items()
    ]
    entries = leaderboard(families, given)
    found = {
        **dict.fromkeys(("target", "drafter", "out", "trace", "prompts_sha256"), "<i>"),
        "num_prompts": 8,
        "num_test_prompts": 9,
        "max_new_tokens": 10,
        "by": "source",
        "families": entries,
        "best_fixed": references(given),
        "num_over_fitted": 2,
        "num_divergences": 0,
        "cost_about": {
            "hardware": {"cpu": "another"},
            "quality": {"is_good": False, "why": "two halves of its samples differ by 12%"},
        },
        "sweeps": ["sweep"],
        "config": {"dtype": "float32"},
        "hardware": {"cpu": "this", "threads": 1},
        "versions": {},
        "git": None,
    }
    found["notes"] = notes(found)
    picture = png_picture("trials", b"\x89PNG")
    stages = {"sweeps": {"seconds": 12.0, "done": "3 families", "cut": ["talon: 5 of 9"]}}
    page = Elements(render(Page(found, stages, {"chain": [picture]}))).text
    assert "2 of 3 families over-fitted" in page
    assert "to the tune split's texts: in replay it is slower on these prompts too" in page
    assert "to the cost table: in replay it is faster on these prompts" in page
    assert page.count("over-fitted to") == 2
    assert "Time was up after 8 of 9 prompts" in page
    assert "measured on another machine: another" in page
    assert "not good enough to rely on: two halves of its samples differ by 12%." in page
    assert "talon: 5 of 9" in page
    assert "Replay was off by 14% on average" in page
    assert "at most by 67%: costs came out" in page
