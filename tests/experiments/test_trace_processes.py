"""The command `trace` in processes of its own, killed and interrupted from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from adaeagle.trace.folder import TraceFolder, load_texts
from experiments.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc"),
]
NUM_PROMPTS = 60
COMMAND = (sys.executable, "-m", "experiments.cli")
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
OWN = ("manifest.json", "run.yaml")
"""Files that may differ between recordings of the same texts."""


@pytest.fixture
def arguments(folders: Any, tmp_path: Path) -> list[str]:
    """Of a recording that takes seconds."""
    lines = [json.dumps({"id": number, "token_ids": [1 + number]}) for number in range(NUM_PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    given: list[object] = [
        *("trace", "--target", folders.target, "--drafter", folders.head, "--device", "cpu"),
        *("--envelope", "chain(length=4)", "--prompts", tmp_path / "prompts.jsonl"),
        *("--max-new-tokens", 24, "--prompts-per-shard", 2, "--threads", 1),
    ]
    return [str(argument) for argument in given]


@pytest.fixture
def whole(arguments: list[str], tmp_path: Path) -> dict[str, bytes]:
    """What an uninterrupted recording leaves behind."""
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    return contents(tmp_path / "whole")


def contents(path: Path) -> dict[str, bytes]:
    """Without the manifest, which names the machine."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in OWN)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for_shards(process: subprocess.Popen[str], out: Path, count: int) -> None:
    """Until so many are stored; the recording must not have ended."""
    deadline = time.monotonic() + 300
    while len(list(out.glob("shards/*.json"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers(pid: int) -> list[int]:
    """The processes that record, of one that started them."""
    found = [c for c in children(pid) if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    assert len(found) == 2
    return found


def assert_goes_on(arguments: list[str], out: Path, whole: dict[str, bytes]) -> None:
    """The rest is recorded in this process."""
    left = TraceFolder.open(out)
    assert 0 < len(left.missing) < NUM_PROMPTS // 2
    assert len(load_texts(out)) == left.num_recorded
    assert main([*arguments, "--out", str(out)]) == 0
    assert contents(out) == whole


def test_a_killed_recording_goes_on(
    arguments: list[str], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "killed"
    process = start([*COMMAND, *arguments, "--out", str(out)])
    wait_for_shards(process, out, 5)
    process.kill()
    process.communicate()
    assert_goes_on(arguments, out, whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_killed(
    arguments: list[str], tmp_path: Path, whole: dict[str, bytes], rank: int
) -> None:
    out = tmp_path / "killed"
    process = start([*COMMAND, *arguments, "--processes", "2", "--out", str(out)])
    wait_for_shards(process, out, 4)
    os.kill(workers(process.pid)[rank], signal.SIGKILL)
    printed, told = process.communicate(timeout=120)
    assert (process.returncode, printed) == (2, "")
    assert "SIGKILL" in told.splitlines()[-1]
    assert "goes on from there" in told.splitlines()[-1]
    assert_goes_on(arguments, out, whole)


def test_both_end_after_ctrl_c(
    arguments: list[str], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "interrupted"
    process = start([*COMMAND, *arguments, "--processes", "2", "--out", str(out)])
    wait_for_shards(process, out, 4)
    os.killpg(process.pid, signal.SIGINT)
    printed, told = process.communicate(timeout=120)
    assert (process.returncode, printed) == (130, "")
    assert "interrupted: " in told
    assert "Traceback" not in told
    assert_goes_on(arguments, out, whole)


def test_none_is_left_when_the_first_is_asked_to_end(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    process = start([*COMMAND, *arguments, "--processes", "2", "--out", str(out)])
    wait_for_shards(process, out, 4)
    both = workers(process.pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)


@pytest.mark.parametrize(
    "launch",
    [
        lambda arguments: [*COMMAND, *arguments, "--processes", "2"],
        lambda arguments: [*LAUNCHER, "-m", "experiments.cli", *arguments, "--processes", "2"],
    ],
    ids=["fabric", "torchrun"],
)
def test_launchers(
    arguments: list[str],
    tmp_path: Path,
    whole: dict[str, bytes],
    launch: Callable[[list[str]], list[str]],
) -> None:
    out = tmp_path / "spread"
    process = start(launch([*arguments, "--out", str(out)]))
    printed, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    [line] = [line for line in printed.splitlines() if line.startswith("{")]
    assert json.loads(line)["complete"]
    assert contents(out) == whole


def test_another_number_than_was_launched_is_refused(arguments: list[str], tmp_path: Path) -> None:
    process = start([*LAUNCHER, "-m", "experiments.cli", *arguments, "--out", str(tmp_path / "x")])
    _, told = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "adaeagle: --processes and --num-nodes" in told
    assert not (tmp_path / "x").exists()
