"""The command as its users see it: what it prints, writes and resumes."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from adaeagle.bench.run_folder import RunFolder

POLICIES = ("--policies", "chain(length=3)", "eagle2(depth=3, width=3, nodes=8)")
RESULT_KEYS = (
    *("target", "drafter", "config", "prompts_sha256", "token_ids_sha256", "tokenizer_sha256"),
    *("generation", "hardware", "versions", "git", "split", "baseline", "oracle", "arms"),
    *("per_prompt", "ranking"),
)
ARM_KEYS = (
    *("policy", "num_tokens", "seconds", "tokens_per_second", "speedup", "speedup_ci95"),
    *("tokens_per_round", "acceptance_by_depth", "conditional_acceptance_by_depth"),
    *("draft_forwards", "verified_nodes"),
    *("prefill_seconds", "draft_seconds", "verify_seconds", "policy_seconds", "other_seconds"),
    "headroom_recovered",
)


def test_compare_writes_the_promised_results(compare: Any) -> None:
    found = compare(*POLICIES, "--out", "runs/one")
    assert found.code == 0
    results = json.loads(Path("runs/one/results.json").read_text())
    assert tuple(results) == RESULT_KEYS
    assert [tuple(arm) for arm in results["arms"]] == [ARM_KEYS] * 3
    assert [arm["policy"] for arm in results["arms"]] == ["vanilla", *POLICIES[1:]]
    assert (results["baseline"], results["split"], results["oracle"]) == ("vanilla", "all", None)
    assert len(results["per_prompt"]) == 4
    vanilla, *drafted = results["arms"]
    assert vanilla["speedup"] == 1
    assert vanilla["tokens_per_round"] == 1
    for arm in drafted:
        assert arm["num_tokens"] == vanilla["num_tokens"] == 5 * 12  # one prompt has two turns
        assert arm["tokens_per_round"] > 2
        assert arm["headroom_recovered"] is None
        parts = ("prefill", "draft", "verify", "policy", "other")
        assert arm["seconds"] == pytest.approx(sum(arm[f"{part}_seconds"] for part in parts))
        assert arm["speedup"] == pytest.approx(vanilla["seconds"] / arm["seconds"])


def test_compare_shows_tables_and_ends_with_json(compare: Any) -> None:
    found = compare(*POLICIES, "--out", "runs/one")
    *shown, last = found.stdout.splitlines()
    line = json.loads(last)
    assert line["num_prompts"] == 4
    assert line["num_divergences"] == 0
    text = "\n".join(shown)
    for expected in ("chain(length=3)", "by source", "near", "far", "token for token"):
        assert expected in text


def test_json_alone(compare: Any) -> None:
    found = compare(*POLICIES, "--out", "runs/one", "--json")
    [line] = found.stdout.splitlines()
    assert [arm["policy"] for arm in json.loads(line)["arms"]] == ["vanilla", *POLICIES[1:]]
    assert "chain(length=3)" in found.stderr


def test_limit_takes_from_each_source(compare: Any) -> None:
    compare(*POLICIES, "--limit", 2, "--out", "runs/one")
    results = json.loads(Path("runs/one/results.json").read_text())
    assert [prompt["source"] for prompt in results["per_prompt"]] == ["near", "far"]


def test_vanilla_alone_needs_no_drafter_and_is_drawn(run: Any, folders: Any, prompts: Path) -> None:
    found = run(
        *("compare", "--target", folders.target, "--prompts", prompts, "--policies", "vanilla"),
        *("--max-new-tokens", 4, "--out", "runs/one"),
    )
    assert found.code == 0
    assert json.loads(Path("runs/one/results.json").read_text())["drafter"] is None
    for name in ("speedup", "accepted_length", "time_per_round", "tokens_per_round_by_source"):
        picture = Path(f"runs/one/{name}.png")
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert str(picture) in found.stdout


def test_other_drafters(compare: Any, folders: Any) -> None:
    """The target itself as a small language model: everything it drafts is accepted."""
    found = compare("--drafter", folders.target, "--policies", "chain(length=3)", "--json")
    assert json.loads(found.stdout)["arms"][1]["tokens_per_round"] > 3.5


def test_sampled_runs_do_not_depend_on_the_limit(compare: Any) -> None:
    for limit, out in ((1, "runs/one"), (4, "runs/four")):
        compare("--temperature", 1, "--policies", "eagle2", "--limit", limit, "--out", out)
    counts = [
        json.loads(Path(f"runs/{out}/results.json").read_text())["per_prompt"][0]["arms"]["eagle2"]
        for out in ("one", "four")
    ]
    assert counts[0]["num_emitted"] == counts[1]["num_emitted"]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, num_prompts: int, error: Exception) -> None:
    """Lets a run fail while it writes the prompt after `num_prompts`."""
    append = RunFolder.append
    finished: list[str] = []

    def failing(self: RunFolder, record: Any) -> None:
        if len(finished) == num_prompts:
            with (self.path / "records.jsonl").open("a") as lines:
                lines.write('{"id": "torn", "arms": {')
            raise error
        finished.append(record.id)
        append(self, record)

    monkeypatch.setattr(RunFolder, "append", failing)


def comparable(path: str) -> list[dict[str, Any]]:
    """What of a run's records does not depend on the clock."""
    records = json.loads(Path(path, "results.json").read_text())["per_prompt"]
    for record in records:
        for arm in record["arms"].values():
            for key in [key for key in arm if key.endswith("seconds")]:
                del arm[key]
    return records  # type: ignore[no-any-return]


LEARNING = ("--policies", "chain(stop=hf_heuristic(across_texts=True))", "eagle2")


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "No space left"), 2)]
)
def test_an_interrupted_run_goes_on(
    compare: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    """Also for a policy that learns across prompts: it goes on from what it knew."""
    assert compare(*LEARNING, "--out", "runs/whole").code == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, error)
        broken = compare(*LEARNING, "--out", "runs/torn")
    assert broken.code == code
    assert broken.stdout == ""
    assert "Traceback" not in broken.stderr
    assert "runs/torn" in broken.stderr
    assert not Path("runs/torn/results.json").exists()
    resumed = compare(*LEARNING, "--out", "runs/torn")
    assert resumed.code == 0
    assert "2 of 4 prompts were finished" in resumed.stderr
    assert comparable("runs/torn") == comparable("runs/whole")


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond `num_bytes`."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_keeps_what_is_finished(compare: Any) -> None:
    with full_disk(4096):
        found = compare(*POLICIES, "--out", "runs/full")
    assert found.code == 2
    last = found.stderr.splitlines()[-1]
    assert last.startswith("adaeagle: --out must be a folder with room")
    assert "Traceback" not in found.stderr
    resumed = compare(*POLICIES, "--out", "runs/full")
    assert resumed.code == 0
    assert "of 4 prompts were finished" in resumed.stderr


def test_a_finished_run_is_shown_again(compare: Any) -> None:
    first = compare(*POLICIES, "--out", "runs/one")
    again = compare(*POLICIES, "--out", "runs/one")
    assert again.stdout == first.stdout
    assert "4 of 4 prompts were finished" in again.stderr


@pytest.mark.parametrize(
    ("file", "changed", "reason"),
    [
        (
            "chat_template.jinja",
            "{% for m in messages %}>{{ m['content'] }}{% endfor %}",
            "token",
        ),
        ("generation_config.json", '{"repetition_penalty": 1.5}', "generation.config"),
    ],
)
def test_a_target_that_reads_otherwise_is_another_run(
    compare: Any, folders: Any, tmp_path: Path, file: str, changed: str, reason: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(folders.target, model)
    common = (*POLICIES, "--target", model, "--out", "runs/read")
    assert compare(*common).code == 0
    (model / file).write_text(changed)
    found = compare(*common)
    assert found.code == 2
    assert "holds another run: " in found.stderr
    assert reason in found.stderr


def test_another_run_is_refused_the_folder(compare: Any) -> None:
    compare(*POLICIES, "--out", "runs/one")
    found = compare(*POLICIES, "--out", "runs/one", "--seed", 1)
    assert found.code == 2
    assert found.stderr.splitlines() == [
        "adaeagle: --out must be a folder that can be written, empty or of this same run, got "
        "'runs/one': runs/one holds another run: seed was 0, is 1 (--overwrite begins anew)"
    ]
    anew = compare(*POLICIES, "--out", "runs/one", "--seed", 1, "--overwrite")
    assert anew.code == 0
    assert json.loads(Path("runs/one/results.json").read_text())["config"]["seed"] == 1


def test_a_run_is_repeated_from_what_it_wrote(compare: Any, run: Any) -> None:
    compare(*POLICIES, "--out", "runs/one", "--seed", 3, "--limit", 2)
    repeated = run("--config", "runs/one/run.yaml", "compare", "--limit", "3", "--out", "runs/two")
    assert repeated.code == 0, repeated.stderr
    one, two = (json.loads(Path(f"runs/{n}/results.json").read_text()) for n in ("one", "two"))
    assert one["config"] | {"limit": 3} == two["config"]
    other = run("audit", "--config", "runs/one/run.yaml")
    assert other.code == 2
    assert "--config must be of 'audit', got one of 'compare'" in other.stderr


def test_version(run: Any) -> None:
    found = run("--version")
    assert (found.code, found.stdout) == (0, f"adaeagle {version('adaeagle')}\n")


def test_long_prompts_are_left_out_on_request(compare: Any, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text('{"prompt": "ab"}\n' + json.dumps({"prompt": "ab" * 4000}) + "\n")
    refused = compare(*POLICIES, "--prompts", path)
    assert refused.code == 2
    assert "must be shorter than the context" in refused.stderr
    found = compare(*POLICIES, "--prompts", path, "--skip-long", "--out", "runs/short")
    assert found.code == 0, found.stderr
    assert "1 of 2 prompts are too long" in found.stderr
    summary = json.loads(found.stdout.splitlines()[-1])
    assert summary["num_prompts"] == 1
    assert summary["verdict"] == "no verdict: it takes 6 prompts or more, got 1"


def test_ctrl_c(folders: Any, prompts: Path, tmp_path: Path) -> None:
    """The real signal, in the middle of a real run."""
    command = [
        *(sys.executable, "-m", "experiments.cli", "compare", "--policies", "chain", "eagle2"),
        *("--target", folders.target, "--drafter", folders.head, "--prompts", prompts),
        *("--max-new-tokens", "400", "--out", "out", "--device", "cpu"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    records = tmp_path / "out" / "records.jsonl"
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=-1, stderr=-1, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 300  # a busy machine imports slowly
            while not (records.exists() and records.read_bytes().endswith(b"\n")):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "the same command goes on from there" in stderr
    assert json.loads(records.read_text().splitlines()[0])["id"] == "1"


def test_generate_streams_text(run: Any, folders: Any) -> None:
    arguments = (
        *("generate", "--target", folders.target, "--drafter", folders.head),
        *("--prompt", "Why?", "--max-new-tokens", 20, "--policy", "chain(length=4)"),
    )
    shown = run(*arguments)
    assert shown.code == 0
    assert "20 tokens in" in shown.stderr
    [line] = run(*arguments, "--json").stdout.splitlines()
    answer = json.loads(line)
    assert len(answer["token_ids"]) == 20
    assert shown.stdout == answer["text"] + "\n"
    assert 1 + sum(round_["num_emitted"] for round_ in answer["rounds"]) == 20


def test_generate_stops_and_takes_a_template(run: Any, folders: Any) -> None:
    common = (
        *("generate", "--target", folders.target, "--drafter", folders.head, "--json"),
        *("--prompt", "Why?", "--max-new-tokens", 20, "--policy", "chain(length=4)"),
    )
    whole = json.loads(run(*common).stdout)["text"]
    cut = run(*common, "--stop", whole[5])
    assert cut.code == 0, cut.stderr
    assert json.loads(cut.stdout)["text"] == whole[: whole.index(whole[5]) + 1]
    template = "{% for m in messages %}# {{ m['content'] }} #{% endfor %}"
    other = run(*common, "--chat-template", template)
    assert other.code == 0, other.stderr
    assert json.loads(other.stdout)["text"] != whole


def test_generate_answers_turn_by_turn(run: Any, folders: Any, prompts: Path) -> None:
    found = run(
        *("generate", "--target", folders.target, "--drafter", folders.head),
        *("--prompts", prompts, "--max-new-tokens", 6, "--json"),
    )
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    turns = [(answer["id"], answer["turn"]) for answer in answers]
    assert turns == [("1", 0), ("2", 0), ("2", 1), ("3", 0), ("four", 0)]


def test_policies(run: Any) -> None:
    found = run("policies")
    assert found.code == 0
    rows = {row["name"]: row for row in json.loads(run("policies", "--json").stdout)}
    assert {"vanilla", "chain", "static_tree", "eagle2", "confidence"} <= rows.keys()
    assert rows["confidence"]["kind"] == "stop rule"
    assert rows["eagle2"]["kind"] == "policy"
    assert rows["eagle2"]["arguments"].startswith("depth=6, width=10, nodes=59")
    for name, row in rows.items():
        assert row["does"], name
        assert row["source"], name
        assert name in found.stdout


def test_drafters(run: Any) -> None:
    assert run("drafters").code == 0
    rows = {row["name"]: row for row in json.loads(run("drafters", "--json").stdout)}
    assert {"eagle", "lm", "medusa", "ngram", "suffix", "recycling", "merged"} <= rows.keys()
    assert rows["eagle"]["arguments"] == "head='mini', draft_vocab=None, revision=None"
    assert all(row["does"] and row["source"] and row["kind"] == "drafter" for row in rows.values())
    refused = run("drafters", "ngrams")
    assert refused.code == 2
    assert "did you mean 'ngram'?" in refused.stderr


@pytest.mark.parametrize(
    "spec",
    ["ngram(n_max=3)", "suffix", "recycling(num_kept=2)", "merged(pretrained('HEAD'), suffix)"],
)
def test_drafters_of_any_kind(compare: Any, folders: Any, spec: str) -> None:
    spec = spec.replace("HEAD", str(folders.head))
    found = compare("--drafter", spec, "--policies", "vanilla", "chain(length=4)", "--json")
    assert found.code == 0, found.stderr


@pytest.mark.parametrize("command", ["demo", "compare", "generate", "audit", "policies"])
def test_help_shows_an_example(run: Any, command: str) -> None:
    found = run(command, "--help")
    assert found.code == 0
    assert f"adaeagle {command}" in found.stdout.partition("Example:")[2]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from experiments.cli import main; main(['compare', '--help']);"
        "print({'torch', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"
