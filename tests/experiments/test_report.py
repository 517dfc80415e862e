"""The report of a finished run: its numbers, its safety from what prompts say, its explorer."""

import json
import re
import shutil
import subprocess
from contextlib import chdir, redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from adaeagle.cost.model import CostModel
from adaeagle.data.bundled import bundled_folder
from adaeagle.replay.headroom import prefill_seconds
from adaeagle.trace.folder import load_texts
from adaeagle.trace.trace import Trace
from experiments.cli import main
from experiments.report.pages import as_data
from experiments.report.token_texts import TokenTexts, load_tokenizer

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><!--"
POLICIES = (
    "vanilla",
    "chain(length=3)",
    "chain(length=6, stop=hf_heuristic(start=2, across_texts=True))",
    "eagle2(depth=3, width=4, nodes=6)",
)
VOID = {"meta", "img", "br", "input", "hr", "link"}
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


class Page(HTMLParser):
    """A page's elements; fails where they are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.texts: dict[str, str] = {}  # of scripts, by their type
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.texts[self.elements[-1][1]["type"] or ""] = data
        elif {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data.strip()

    @property
    def data(self) -> Any:
        """What the explorer reads."""
        return json.loads(self.texts["application/json"])


def command(*arguments: object) -> tuple[int, str, str]:
    with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()) as complained:
        code = main([str(argument) for argument in arguments])
    return code, said.getvalue(), complained.getvalue()


@pytest.fixture(scope="module")
def home(folders: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trace of four prompts, a cost table, a replay and its report.

    Of two sources, and the first prompt of the second one comes after the last of the first: a
    policy that learns across texts is as it was there only if all texts are played.
    """
    home = tmp_path_factory.mktemp("report")
    lines: list[dict[str, Any]] = [
        {"id": "near", "source": "<b>near</b>", "turns": ["What is near?", "And who was?"]},
        {"id": "ids", "source": "<b>near</b>", "token_ids": [5, 6, 7, 8]},
        {"id": "hostile", "source": "far", "turns": [HOSTILE]},
        {"id": "far", "source": "far", "turns": ["What is far away?"]},
    ]
    (home / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cost = CostModel.linear(constant=0.001, draft=0.002, verify=0.010, node=0.0005, width=0.0001)
    cost.save(home / "cost.json")
    models = ("--target", folders.target, "--drafter", folders.head, "--device", "cpu")
    told = ("--prompts", "prompts.jsonl", "--max-new-tokens", 14)
    with chdir(home):
        found = [
            command("trace", *models, *told, "--out", "trace"),
            command(
                *("replay", "trace", "--cost", "cost.json", "--out", "run"),
                *("--policies", *POLICIES),
            ),
            command("report", "run"),
        ]
    for code, _, complained in found:
        assert code == 0, complained
    return home


@pytest.fixture(scope="module")
def results(home: Path) -> Any:
    return json.loads((home / "run" / "results.json").read_text())


@pytest.fixture(scope="module")
def page(home: Path) -> Page:
    return Page((home / "run" / "report.html").read_text("utf-8"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longest, and one page with them is enough."""
    monkeypatch.setattr("experiments.report.page.pictures", lambda *_: [])
    monkeypatch.setattr("experiments.runs.replay.draw_all", lambda *_: [])


@pytest.fixture
def copied(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Path:
    """The same folder, to be changed; the working directory."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def report(*arguments: object) -> tuple[Any, Page]:
    """The last line of a report of the folder `run`, and its page."""
    code, said, complained = command("report", "run", *arguments)
    assert code == 0, complained
    line = json.loads(said.splitlines()[-1])
    path = Path(line["out"])
    assert line["bytes"] == path.stat().st_size
    return line, Page(path.read_text("utf-8"))


def test_nothing_comes_from_outside(home: Path, page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert tag not in ("link", "iframe", "object", "base")
    text = (home / "run" / "report.html").read_text("utf-8")
    assert "@import" not in text
    assert "url(" not in text
    policy = next(a["content"] for tag, a in page.elements if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "'unsafe-inline'" not in policy.split("script-src")[1]


def test_prompts_are_text_and_nothing_else(home: Path, page: Page) -> None:
    assert [a.get("type") for tag, a in page.elements if tag == "script"] == [
        "application/json",
        "module",
    ]
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert sum(tag == "img" for tag, _ in page.elements) == 4
    assert any(HOSTILE in text["prompt"] for text in page.data["texts"])
    assert "onerror=" not in (home / "run" / "report.html").read_text("utf-8").replace(
        as_data(HOSTILE)[1:-1], ""
    )


def test_tables_can_be_sorted_and_specs_copied(page: Page) -> None:
    """Every column's name knows its place; on a phone every cell carries its column's name."""
    cells = [a for tag, a in page.elements if tag == "td" and "data-label" in a]
    assert len(cells) % len(POLICIES) == 0
    columns = [int(a["data-column"] or "") for _, a in page.elements if "data-column" in a]
    assert sorted(columns) == [0, 1, 2, 3, *range(5, 15)]
    assert sum(a.get("class") == "spec" for tag, a in page.elements if tag == "code") > len(
        POLICIES
    )


def test_data_ends_no_element() -> None:
    told = as_data({"<": "</script>", "&": "\u2028]]>"})
    assert not set("<>&\u2028") & set(told)
    assert json.loads(told) == {"<": "</script>", "&": "\u2028]]>"}


def test_the_table_says_what_the_results_say(page: Page, results: Any) -> None:
    rows = [row for row in page.rows if row and row[0] in POLICIES][: len(POLICIES)]
    assert [row[0] for row in rows] == list(POLICIES)
    for row, arm in zip(rows, results["arms"], strict=True):
        records = [prompt["arms"][arm["policy"]] for prompt in results["per_prompt"]]
        rounds = sum(len(record["num_emitted"]) for record in records)
        spent = [1000 * arm[f"{part}_seconds"] / rounds for part in ("draft", "verify", "policy")]
        low, high = arm["speedup_ci95"]
        is_baseline = arm["policy"] == "vanilla"
        assert row[1] == f"{arm['tokens_per_second']:.1f}"
        assert row[2] == f"{arm['speedup']:.2f}\u00d7"
        assert row[3] == ("" if is_baseline else f"{low:.2f}\u2013{high:.2f}")
        assert row[5] == f"{arm['tokens_per_round']:.2f}"
        assert row[8:11] == [f"{milliseconds:.2f}" for milliseconds in spent]
        share = f"{arm['headroom_recovered']:+.0%}".replace("-", "\u2212")
        assert row[13] == ("0%" if share[1:] == "0%" else share)
        assert row[14] == results["oracle"]["family_of"][arm["policy"]]


def test_headroom_names_baseline_and_split(home: Path, results: Any) -> None:
    text = (home / "run" / "report.html").read_text("utf-8")
    assert "split <b>all</b>" in text
    for name, family in results["oracle"]["families"].items():
        section = text.split(f"<h3>{name}: ")[1].split("<h3>")[0]
        assert f"{family['headroom']:+.1%} over" in section
        assert f"{family['baseline']}</code>, chosen on the same prompts" in section
        speeds = (
            *(family[key] for key in ("fixed", "greedy", "dp")),
            results["oracle"]["clairvoyant"],
        )
        for speed in speeds:
            assert f">{speed:.1f}</span>" in section
        members = [n for n, own in results["oracle"]["family_of"].items() if own == name]
        assert all(f"<code>{member}</code>" in section for member in members)


def by_prompt(home: Path, lists: list[Any]) -> dict[str, list[Any]]:
    """One list for each text, joined by prompt."""
    found: dict[str, list[Any]] = {}
    for text, own in zip(load_texts(home / "trace"), lists, strict=True):
        found.setdefault(text.prompt_id, []).extend(own)
    return found


def test_rounds_are_those_of_the_run(home: Path, page: Page, results: Any) -> None:
    data = page.data
    assert [one["name"] for one in data["policies"]] == list(POLICIES)
    for name, by_text in zip(POLICIES, data["rounds"], strict=True):
        played = by_prompt(home, by_text)
        for prompt in results["per_prompt"]:
            record, rounds = prompt["arms"][name], played[prompt["id"]]
            columns = ("depth", "num_drafted", "num_verified", "num_accepted", "num_emitted")
            for place, column in enumerate(columns, start=1):
                assert [one[place] for one in rounds] == record[column]
            for place, part in enumerate(("draft", "verify", "other")):
                total = sum(one[6][place] for one in rounds) / 1000
                assert total == pytest.approx(record[f"{part}_seconds"], abs=1e-5)


def check_tree(round_: list[Any], said: list[int]) -> None:
    """What became of each node follows from the text alone: `said` from the root on."""
    accepted, places, parents, fates = round_[4], round_[7], round_[8], round_[10]
    depths: list[int] = []
    is_said: list[bool] = []
    for place, parent in zip(places, parents, strict=True):
        assert parent < len(depths)
        depths.append(1 if parent < 0 else depths[parent] + 1)
        follows = parent < 0 or is_said[parent]
        is_said.append(follows and said[depths[-1] : depths[-1] + 1] == [place])
    assert sum(fate != "/" for fate in fates) == round_[3]
    for node, fate in enumerate(fates):
        parent = parents[node]
        if fate in "+/":
            assert is_said[node]
            assert (fate == "+") == (depths[node] <= accepted)
        else:
            assert not is_said[node]
            is_tested = parent < 0 or fates[parent] == "+"
            assert fate == ("-" if is_tested and depths[node] < len(said) else ".")


def test_every_node_is_marked_by_what_became_of_it(page: Page) -> None:
    data = page.data
    seen = set()
    for by_text in data["rounds"]:
        for text, rounds in zip(data["texts"], by_text, strict=True):
            emitted = 1
            for one in rounds:
                assert one[0] == emitted - 1
                check_tree(one, text["tokens"][one[0] :])
                assert all(0 <= share <= 1000 for share in one[9])
                emitted += one[5]
                seen |= set(one[10])
            assert emitted == len(text["tokens"])
    assert seen >= set("+-.")


def test_the_oracle_beside_the_rounds_is_that_of_the_results(
    home: Path, page: Page, results: Any
) -> None:
    data = page.data
    trace = Trace(load_texts(home / "trace"), vocab_size=96)
    prefill = prefill_seconds(trace, CostModel.load(home / "cost.json"))
    tokens = sum(len(text["tokens"]) for text in data["texts"])
    for name, by_text in data["oracle"].items():
        spent = prefill
        for text, plans in zip(data["texts"], by_text, strict=True):
            here = 0
            while here < len(text["tokens"]) - 1:
                member, *_, emitted, milliseconds = plans[here]
                assert 0 <= member < len(data["members"][name])
                spent += milliseconds / 1000
                here += emitted
        assert tokens / spent == pytest.approx(results["oracle"]["families"][name]["dp"], rel=1e-4)


def test_texts_and_tokens_can_be_read(home: Path, page: Page, character_tokenizer: Any) -> None:
    data = page.data
    for text, shown in zip(load_texts(home / "trace"), data["texts"], strict=True):
        assert "".join(shown["said"]) == character_tokenizer.decode(text.token_ids)
        ids = [data["tokens"][place][1] for place in shown["tokens"]]
        assert ids == text.token_ids.tolist()
        assert shown["target"][0] == pytest.approx(text.top_log_probs[0, 0].exp().item(), abs=1e-4)
    assert all(
        told == character_tokenizer.decode([id_]).replace(" ", "·") for told, id_ in data["tokens"]
    )


def test_without_a_tokenizer_ids_are_shown() -> None:
    told = TokenTexts(None)
    assert told.places([7, 9, 7]) == [0, 1, 0]
    assert told.texts == ["7", "9"]
    assert told.prompt([7, 9]) == "7 9"
    assert told.flow([7, 9]) == ["7 ", "9 "]


@pytest.mark.skipif(bundled_folder("mini", "target") is None, reason="mini is not in this checkout")
def test_characters_of_several_tokens_come_whole() -> None:
    tokenizer = load_tokenizer("mini")
    assert tokenizer is not None
    text = "na\u00efve \u65e5\u672c caf\u00e9"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    pieces = TokenTexts(tokenizer).flow([*ids, end])
    assert "".join(pieces[:-1]) == text
    assert len(ids) > len(text.split()) + 3
    assert pieces[-1] == tokenizer.decode([end])


def test_a_few_prompts_of_every_source(copied: Path) -> None:
    line, page = report("--explore", 2, "--out", "page.html")
    assert line["explored_prompts"] == ["near", "hostile"]
    assert line["explored_policies"] == list(POLICIES)
    assert line["without_explorer"] is None
    assert [text["label"] for text in page.data["texts"]] == [
        "<b>near</b>: near",
        "<b>near</b>: near, turn 2",
        "far: hostile",
    ]


def without_explorer(*arguments: object) -> str:
    line, page = report(*arguments)
    assert line["explored_prompts"] == []
    assert "application/json" not in page.texts
    assert [row[0] for row in page.rows if row and row[0] in POLICIES] == list(POLICIES)
    why = line["without_explorer"]
    assert isinstance(why, str)
    return why


def test_no_prompts(copied: Path) -> None:
    assert "no prompts were asked for" in without_explorer("--explore", 0)


def test_the_trace_is_gone(copied: Path) -> None:
    (copied / "trace").rename(copied / "elsewhere")
    assert "the trace of the replay cannot be read: TRACE 'trace'" in without_explorer()


def test_another_trace_lies_there(copied: Path) -> None:
    manifest = copied / "trace" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_top": 8', '"num_top": 4'))
    assert "trace is not the trace that was replayed" in without_explorer()


def test_a_damaged_trace(copied: Path) -> None:
    part = next((copied / "trace" / "tokens").iterdir())
    part.write_bytes(part.read_bytes()[:-1])
    assert "the trace cannot be read" in without_explorer()


def test_another_cost_table_lies_there(copied: Path) -> None:
    path = copied / "cost.json"
    path.write_text(path.read_text().replace("made_up", "made_up_anew"))
    line, page = report()
    assert line["explored_policies"] == list(POLICIES)
    assert page.data["oracle"] == {}
    assert all(one["family"] is None for one in page.data["policies"])
    rounds = [one for by_text in page.data["rounds"] for own in by_text for one in own]
    assert all(one[6] is None for one in rounds)
    assert "another table than the replay" in (copied / "run" / "report.html").read_text()


def change_results(path: Path, change: Any) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def test_a_policy_that_runs_other_rounds_now_is_left_out(copied: Path) -> None:
    def reverse(found: Any) -> None:
        own = found["per_prompt"][0]["arms"][POLICIES[1]]
        assert own["num_accepted"] != own["num_accepted"][::-1]
        own["num_accepted"].reverse()

    change_results(copied / "run" / "results.json", reverse)
    line, page = report()
    assert line["explored_policies"] == [name for name in POLICIES if name != POLICIES[1]]
    remark = f"{POLICIES[1]} no longer runs the rounds"
    assert remark in (copied / "run" / "report.html").read_text()
    assert len(page.data["rounds"]) == len(POLICIES) - 1


def test_without_oracles(copied: Path) -> None:
    code, _, complained = command(
        *("replay", "trace", "--cost", "cost.json", "--out", "run", "--no-oracle"),
        *("--policies", *POLICIES),
    )
    assert code == 0, complained
    _, page = report()
    assert page.data["oracle"] == {}
    assert len(page.data["rounds"]) == len(POLICIES)
    assert "headroom" not in [a.get("id") for _, a in page.elements]
    assert {len(row) for row in page.rows if row and row[0] in POLICIES} == {13}


def test_a_comparison(compare: Any, undrawn: None) -> None:
    assert compare("--policies", "chain(length=3)", "--out", "run").code == 0
    line, page = report()
    assert "compare keeps no draft trees" in line["without_explorer"]
    assert line["num_policies"] == 2
    assert [row[0] for row in page.rows if row][2:] == ["vanilla", "chain(length=3)"]
    text = Path("run/report.html").read_text("utf-8")
    assert "This page has no explorer: compare keeps" in text
    assert "answers equal vanilla" in text or "part from vanilla" in text


def test_json_alone_goes_to_stdout(copied: Path) -> None:
    code, said, complained = command("report", "run", "--explore", 0, "--json")
    assert code == 0
    assert said.count("\n") == 1
    assert re.search(r"run/report.html: \d\.\d MB, 4 policies on 4 prompts", complained)


def refused(*arguments: object) -> str:
    code, said, complained = command("report", *arguments)
    assert (code, said) == (2, "")
    assert complained.count("\n") == 1
    assert "Traceback" not in complained
    return complained


def test_no_run(copied: Path) -> None:
    assert "got 'nowhere': there is no such folder" in refused("nowhere")
    assert "got '.': it is a cost table: see ./cost.png" in refused(".")
    assert "got 'trace': it is a trace: run `adaeagle replay trace` first" in refused("trace")
    (copied / "empty").mkdir()
    assert "got 'empty': it holds no run" in refused("empty")
    for mark, page in (("confirm.html", "confirm.html"), ("stages.json", "report.html")):
        (copied / "empty" / mark).touch()
        assert f"whose page is empty/{page}" in refused("empty")
    (copied / "run" / "results.json").unlink()
    assert "got 'run': it holds no results.json" in refused("run")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda found: found.pop("arms"), "another command or version: KeyError 'arms'"),
        (lambda found: found.pop("oracle"), "another command or version: KeyError 'oracle'"),
        (lambda found: found["config"].pop("cost"), "another command or version: KeyError 'cost'"),
        (lambda found: found["arms"][0].pop("speedup"), "another command or version: TypeError"),
        (lambda found: found["arms"][0].update(new=1), "another command or version: TypeError"),
        (lambda found: found["per_prompt"].clear(), "another command or version: IndexError"),
        (lambda found: found["arms"].reverse(), "contradicts itself"),
        (lambda found: found["arms"][1].update(speedup=9.9), "contradicts itself"),
    ],
)
def test_results_of_something_else(copied: Path, change: Any, why: str) -> None:
    change_results(copied / "run" / "results.json", change)
    assert why in refused("run")


def test_results_that_are_no_json(copied: Path) -> None:
    (copied / "run" / "results.json").write_text("{")
    assert "RUN must be the folder of a finished" in refused("run")


def test_a_page_that_cannot_be_written(copied: Path) -> None:
    assert "--out must be a file that can be written" in refused("run", "--out", "trace")


@pytest.fixture
def browser(home: Path, tmp_path: Path) -> Any:
    """What a browser makes of the page at a policy, text and round; its console must be empty."""

    def browse(policy: int, text: int, round_: int) -> str:
        done = subprocess.run(
            [
                *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
                *("--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}"),
                f"file://{home}/run/report.html#policy={policy}&text={text}&round={round_}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    return browse


@pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome is installed")
def test_in_a_browser(browser: Any, page: Page) -> None:
    data, policy = page.data, len(POLICIES) - 1
    text = next(n for n, one in enumerate(data["texts"]) if HOSTILE in one["prompt"])
    rounds = data["rounds"][policy][text]
    number = next(n for n, one in enumerate(rounds) if one[4] and one[5] > one[4])
    shown = browser(policy, text, number)
    assert f"round {number + 1} of {len(rounds)}</output>" in shown
    tree = shown.split('id="tree"')[1].split("</svg>")[0]
    counts = {fate: tree.count(f'<g class="{fate}"') for fate in ("root", "accepted", "own")}
    assert counts == {"root": 1, "accepted": rounds[number][4], "own": 1}
    assert tree.count("<g class=") == len(rounds[number][7]) + 2
    assert 'class="dp"' in tree
    said = shown.split('id="said"')[1].split("</div>")[0]
    assert said.count("token accepted") == rounds[number][4]
    assert "&lt;img src=x onerror=" in said
    assert "broken</title>" not in shown
