"""The command `trace`: records, resumes, spreads over processes, and says what is wrong."""

import errno
import json
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from adaeagle.data.files import write_whole
from adaeagle.trace.folder import TraceFolder, load_texts
from adaeagle.trace.recorder import Recorder
from experiments.cli import main
from experiments.runs import trace as tracing

OUT = Path("runs/trace")
WHOLE = pytest.StashKey[dict[str, bytes]]()
ENVELOPE = ("--envelope", "chain(length=3)", "eagle2(depth=2, width=2, nodes=4)")
OWN = ("manifest.json", "run.yaml")
"""Files that may differ between recordings of the same texts."""


@pytest.fixture
def arguments(folders: Any, prompts: Path) -> list[str]:
    """Of a small recording: four prompts, five turns, a prompt a shard."""
    given: list[object] = [
        *("trace", "--target", folders.target, "--drafter", folders.head, *ENVELOPE),
        *("--prompts", prompts, "--max-new-tokens", 8, "--device", "cpu"),
        *("--prompts-per-shard", 1, "--out", OUT),
    ]
    return [str(argument) for argument in given]


@pytest.fixture
def trace(run: Any, arguments: list[str]) -> Callable[..., Any]:
    """Runs `adaeagle trace` on the tiny models."""

    def run_trace(*more: object) -> Any:
        return run(*arguments, *more)

    return run_trace


def contents(path: Path) -> dict[str, bytes]:
    """Without the manifest, which names the prompts' file and the machine."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in OWN)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.fixture
def whole(trace: Callable[..., Any], request: pytest.FixtureRequest) -> dict[str, bytes]:
    """What an uninterrupted recording leaves behind; recorded once for all tests."""
    if WHOLE not in request.config.stash:
        assert trace("--out", "whole").code == 0
        request.config.stash[WHOLE] = contents(Path("whole"))
    return request.config.stash[WHOLE]


def last_line(found: Any) -> Any:
    assert found.code == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])


def die_at(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException) -> None:
    """The recording of one prompt fails."""
    record, calls = Recorder.record, iter(range(1000))

    def fail(recorder: Recorder, prompt: Any) -> Any:
        if next(calls) == call:
            raise error
        return record(recorder, prompt)

    monkeypatch.setattr(Recorder, "record", fail)


def test_a_trace_is_recorded(trace: Callable[..., Any]) -> None:
    found = trace()
    line = last_line(found)
    texts = load_texts(OUT)
    assert [(text.prompt_id, text.turn) for text in texts] == [
        ("1", 0),
        ("2", 0),
        ("2", 1),
        ("3", 0),
        ("four", 0),
    ]
    assert all(len(text.token_ids) == 8 for text in texts)
    assert line == {
        "out": str(OUT),
        "num_texts": 5,
        "num_positions": 35,
        "num_nodes": sum(text.envelope.num_nodes for text in texts),
        "bytes": sum(len(c) for name, c in contents(OUT).items() if "json" not in name),
        "seconds": line["seconds"],
        "complete": True,
    }
    assert line["num_nodes"] > 35 * 2
    assert "tokens/s" in found.stderr
    manifest = TraceFolder.open(OUT).manifest
    assert manifest.envelope == list(ENVELOPE[1:])
    assert [shard.prompt_ids for shard in manifest.shards] == [["1"], ["2"], ["3"], ["four"]]


def test_json_alone_goes_to_stdout(trace: Callable[..., Any]) -> None:
    found = trace("--json", "--limit", 1)
    assert found.stdout.count("\n") == 1
    assert json.loads(found.stdout)["num_texts"] == 1


def test_a_split_does_not_depend_on_the_limit(trace: Callable[..., Any]) -> None:
    trace("--out", "all")
    trace("--out", "some", "--limit", 3)
    splits = {
        out: {
            id_: shard.split
            for shard in TraceFolder.open(out).manifest.shards
            for id_ in shard.prompt_ids
        }
        for out in ("all", "some")
    }
    assert len(splits["some"]) == 3
    assert splits["some"].items() <= splits["all"].items()
    assert set(splits["all"].values()) == {"tune", "test"}


def test_it_ends_when_its_time_is_over_with_a_shard_of_each_split(
    trace: Callable[..., Any], whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tracing.TraceSettings
    with monkeypatch.context() as patch:
        patch.setattr(tracing, "TraceSettings", partial(settings, seconds=0.001))
        line = last_line(trace())
    folder = TraceFolder.open(OUT)
    assert not line["complete"]
    kept = [s for n, s in enumerate(folder.manifest.shards) if n not in folder.missing]
    splits = [shard.split for shard in kept]
    assert set(splits) == {"tune", "test"}
    assert len(set(splits[:-1])) == 1  # none that was not needed
    assert last_line(trace())["complete"]
    assert contents(OUT) == whole


def test_a_complete_trace_says_so_at_once(
    trace: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = last_line(trace())
    monkeypatch.setattr("experiments.runs.trace.load_models", None)
    again = trace()
    assert "is complete, nothing is left to record" in again.stderr
    assert last_line(again) == {**first, "seconds": last_line(again)["seconds"]}


def test_ctrl_c_keeps_finished_shards_and_the_same_command_goes_on(
    trace: Callable[..., Any], whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        die_at(patched, 2, KeyboardInterrupt())
        found = trace()
    assert (found.code, found.stdout) == (130, "")
    assert "interrupted: 2 of 4 prompts are kept in runs/trace; the same command" in found.stderr
    assert "Traceback" not in found.stderr
    assert [text.prompt_id for text in load_texts(OUT)] == ["1", "2", "2"]
    kept = {name: (OUT / name).stat().st_mtime_ns for name in contents(OUT)}
    assert last_line(trace())["complete"]
    assert contents(OUT) == whole
    assert all((OUT / name).stat().st_mtime_ns == written for name, written in kept.items())


@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_while_a_prompt_is_recorded_changes_nothing(
    trace: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    trace("--out", "whole", "--prompts-per-shard", 2)
    with monkeypatch.context() as patched:
        die_at(patched, call, SystemExit(1))
        with pytest.raises(SystemExit):
            trace("--prompts-per-shard", 2)
    assert last_line(trace("--prompts-per-shard", 2))["complete"]
    assert contents(OUT) == contents(Path("whole"))


def assert_one_line(found: Any, *fragments: str) -> None:
    assert (found.code, found.stdout) == (2, "")
    assert "Traceback" not in found.stderr
    last = found.stderr.splitlines()[-1]
    for fragment in ("adaeagle: ", *fragments):
        assert fragment in last


def test_a_full_disk_keeps_finished_shards(
    trace: Callable[..., Any], whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def fill_up(path: Path, content: bytes) -> None:
        if next(calls) == 8:  # of the second shard; the manifest is written elsewhere
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_whole(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("adaeagle.trace.storage.write_whole", fill_up)
        found = trace()
    assert_one_line(found, "--out", "room", "No space left", "1 of 4 prompts are kept")
    assert [text.prompt_id for text in load_texts(OUT)] == ["1"]
    assert last_line(trace())["complete"]
    assert contents(OUT) == whole


def test_another_recording_is_refused(trace: Callable[..., Any]) -> None:
    trace("--limit", 1)
    assert_one_line(trace(), "--out", "same trace", "the prompts are others")
    assert_one_line(
        trace("--limit", 1, "--max-new-tokens", 9), "--out", "max_new_tokens was 8, is 9"
    )
    assert_one_line(trace("--limit", 1, "--dtype", "bfloat16"), "dtype was 'float32'")
    assert last_line(trace("--limit", 1))["complete"]


def test_a_trace_of_another_format_is_refused(trace: Callable[..., Any]) -> None:
    trace("--limit", 1)
    manifest = OUT / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 7'))
    assert_one_line(trace("--limit", 1), "--out", "format must be 1, got 7")


@pytest.mark.parametrize(
    ("given", "name", "rule", "value"),
    [
        (("--envelope", "chian"), "--envelope", "did you mean 'chain'", "'chian'"),
        (("--envelope", "chain", "hf_dynamic"), "--envelope", "must not learn", "hf_dynamic"),
        (("--prompts-per-shard", "0"), "--prompts-per-shard", ">= 1", "'0'"),
        (("--processes", "none"), "--processes", "whole number", "'none'"),
        (("--positions-at-once", "0"), "--positions-at-once", ">= 1", "'0'"),
        (("--prompts", "nowhere"), "--prompts", "JSON Lines", "nowhere"),
        (("--drafter", "suffix"), "--drafter", "needs no record", "'suffix'"),
        (("--drafter", "recycling"), "--drafter", "cannot be recorded", "'recycling'"),
        (("--out", "/proc/trace"), "--out", "folder that can be written", "/proc/trace"),
    ],
)
def test_wrong_input(
    trace: Callable[..., Any], given: tuple[str, ...], name: str, rule: str, value: str
) -> None:
    assert_one_line(trace(*given), name, rule, value)
    assert not OUT.exists()


def test_out_must_be_given(run: Any) -> None:
    assert_one_line(run("trace"), "--out")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def join(rank: int, port: int, arguments: Sequence[str], ends: Any) -> None:
    """One of two processes, as `torchrun` would have started it."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "none",
    }
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main([*arguments, "--processes", "2"])
    ends.put((rank, (code, out.getvalue(), err.getvalue())))


def run_both(arguments: Sequence[str]) -> list[tuple[int, str, str]]:
    """Code, stdout and stderr of two processes that share the work.

    They are forked, so that nothing is imported anew.
    """
    context = get_context("fork")
    ends, port = context.Queue(), free_port()
    both = [context.Process(target=join, args=(r, port, arguments, ends)) for r in range(2)]
    for process in both:
        process.start()
    found = dict(ends.get(timeout=100) for _ in both)
    for process in both:
        process.join()
    return [found[0], found[1]]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@needs_fork
@forks
def test_two_processes_share_the_work(arguments: list[str], whole: dict[str, bytes]) -> None:
    (code, out, _), other = run_both(arguments)
    assert (code, other[:2]) == (0, (0, ""))
    line = json.loads(out.splitlines()[-1])
    assert (line["num_texts"], line["complete"]) == (5, True)
    assert contents(OUT) == whole


@needs_fork
@forks
def test_each_process_records_its_share(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    add = TraceFolder.add

    def note(folder: TraceFolder, number: int, texts: Any) -> None:
        add(folder, number, texts)
        Path(f"stored-{number}").write_text(os.environ["RANK"])

    monkeypatch.setattr(TraceFolder, "add", note)
    run_both(arguments)
    assert [Path(f"stored-{number}").read_text() for number in range(4)] == ["0", "1", "0", "1"]
    # Whatever is missing is dealt out again, not left to the process that had it before.
    for number in (0, 2):
        (OUT / "shards" / f"{number:05d}.json").unlink()
    run_both(arguments)
    assert [Path(f"stored-{number}").read_text() for number in (0, 2)] == ["0", "1"]


@needs_fork
@forks
def test_what_fails_in_one_process_is_told_and_the_other_ends_its_work(
    arguments: list[str], whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = TraceFolder.add

    def fail(folder: TraceFolder, number: int, texts: Any) -> None:
        if os.environ["RANK"] == "1" and number == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(folder, number, texts)

    with monkeypatch.context() as patched:
        patched.setattr(TraceFolder, "add", fail)
        for code, out, err in run_both(arguments):
            assert (code, out, "Traceback" in err) == (2, "", False)
            assert "No space left on device; 2 of 4 prompts are kept" in err
    assert TraceFolder.open(OUT).missing == [1, 3]
    assert [code for code, _, _ in run_both(arguments)] == [0, 0]
    assert contents(OUT) == whole
