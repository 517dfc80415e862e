"""A recording that is killed at any moment, or meets a full disk, loses and repeats nothing."""

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaeagle.trace.folder import TraceFolder, load_texts

Collect = Callable[..., TraceFolder]
Contents = Callable[[Path], dict[str, bytes]]
NUM_MOMENTS = 30


class Killed(BaseException):
    """Where a process would have ended."""


class Moments:
    """Ends the process, or fills the disk, at one operation on files.

    Args:
        monkeypatch: puts it between the code and the system.
        last: which operation fails, counted from 0; None: none.
        error: what it fails with.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, last: int | None, error: BaseException
    ) -> None:
        self.count = 0
        self.names: list[str] = []
        self._last = last
        self._error = error
        self._is_over = False
        open_path, unlink = Path.open, Path.unlink

        def open_watched(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if "w" not in mode:
                return open_path(path, mode, *arguments, **options)
            self.pass_by("open")
            file = open_path(path, mode, *arguments, **options)
            write = file.write

            class Watched:
                fileno, flush = file.fileno, file.flush

                def __enter__(self) -> "Watched":
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

            def write_watched(content: bytes) -> int:
                half = write(content[: len(content) // 2])
                self.pass_by("write")
                return int(half + write(content[half:]))

            watched = Watched()
            watched.write = write_watched  # type: ignore[attr-defined]
            return watched

        def unlink_watched(path: Path, *arguments: Any, **options: Any) -> None:
            if not (self._is_over and isinstance(self._error, Killed)):  # the dead tidy up nothing
                unlink(path, *arguments, **options)

        monkeypatch.setattr(Path, "open", open_watched)
        monkeypatch.setattr(Path, "unlink", unlink_watched)
        for name in ("replace", "fsync"):
            monkeypatch.setattr(os, name, self._watch(name, getattr(os, name)))

    def _watch(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            self.pass_by(f"before {name}")
            found = call(*arguments, **options)
            self.pass_by(f"after {name}")
            return found

        return watched

    def pass_by(self, name: str) -> None:
        self.names.append(name)
        if self.count == self._last:
            self._is_over = True
            raise self._error
        self.count += 1


@pytest.fixture
def whole(tmp_path: Path, collect: Collect, contents: Contents) -> dict[str, bytes]:
    """What an uninterrupted recording leaves behind."""
    collect(tmp_path / "whole")
    return contents(tmp_path / "whole")


def stored(path: Path) -> list[str]:
    """The prompts that can be loaded, each of them as it was."""
    if not (path / "manifest.json").is_file():
        return []
    return [text.prompt_id for text in load_texts(path)]


@pytest.fixture
def num_operations(tmp_path: Path, collect: Collect) -> int:
    """Of an uninterrupted recording."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        moments = Moments(monkeypatch, None, Killed())
        collect(tmp_path / "counted")
    assert set(moments.names) >= {"open", "write", "before fsync", "before replace"}
    return moments.count


def test_a_kill_at_any_moment_changes_nothing(
    tmp_path: Path,
    collect: Collect,
    contents: Contents,
    whole: dict[str, bytes],
    num_operations: int,
) -> None:
    assert num_operations > 100
    drawn = random.Random(0).sample(range(num_operations), NUM_MOMENTS)
    found = []
    for moment in sorted(drawn):
        path = tmp_path / f"killed-{moment}"
        with pytest.MonkeyPatch.context() as monkeypatch:
            moments = Moments(monkeypatch, moment, Killed())
            with pytest.raises(Killed):
                collect(path)
        found.append((moments.names[-1], stored(path)))
        collect(path)
        assert contents(path) == whole, found[-1]
    # The moments were of every kind, early and late.
    assert {name for name, _ in found} >= {"write", "before replace", "after replace"}
    kept = [len(prompt_ids) for _, prompt_ids in found]
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (0, 5 if "e" not in found[-1][1] else 6)
    assert len(set(kept)) >= 3


def test_a_kill_in_every_recording_of_a_chain_changes_nothing(
    tmp_path: Path, collect: Collect, contents: Contents, whole: dict[str, bytes]
) -> None:
    """Each of many recordings lives a little longer than it takes to store a shard."""
    path = tmp_path / "chain"
    for moment in random.Random(1).choices(range(5, 60), k=40):
        before = stored(path)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Moments(monkeypatch, moment, Killed())
            try:
                collect(path)
            except Killed:
                assert set(stored(path)) >= set(before)
            else:
                break
    else:
        pytest.fail("40 recordings were not enough")
    collect(path)
    assert contents(path) == whole


def test_a_kill_while_recording_changes_nothing(
    tmp_path: Path,
    collect: Collect,
    contents: Contents,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(*_: object) -> None:
        raise Killed

    for number in range(3):
        path = tmp_path / f"killed-{number}"
        collect(path, numbers=range(number))
        with monkeypatch.context() as patched:
            patched.setattr(TraceFolder, "add", die)
            with pytest.raises(Killed):
                collect(path)
        assert TraceFolder.open(path).missing == list(range(number, 3))
        collect(path)
        assert contents(path) == whole


def test_a_full_disk_leaves_what_is_finished(
    tmp_path: Path,
    collect: Collect,
    contents: Contents,
    whole: dict[str, bytes],
    num_operations: int,
) -> None:
    for moment in random.Random(2).sample(range(num_operations), 10):
        path = tmp_path / f"full-{moment}"
        full = OSError(errno.ENOSPC, "No space left on device")
        with pytest.MonkeyPatch.context() as monkeypatch:
            Moments(monkeypatch, moment, full)
            with pytest.raises(OSError, match="No space left"):
                collect(path)
        # Half a file would hold on to the space that is missing.
        assert not [name for name in contents(path) if Path(name).name.startswith(".")]
        stored(path)
        collect(path)
        assert contents(path) == whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_processes_change_nothing(
    tmp_path: Path, collect: Collect, contents: Contents, whole: dict[str, bytes]
) -> None:
    """Real ones, by SIGKILL, on their way through the same folder."""
    began = time.perf_counter()
    collect(tmp_path / "timed")
    seconds = time.perf_counter() - began
    drawn = random.Random(3)
    num_cut = 0
    for number in range(12):
        path = tmp_path / f"killed-{number}"
        child = os.fork()
        if child == 0:
            try:
                collect(path)
            finally:
                os._exit(0)
        time.sleep(drawn.uniform(0.1, 1.0) * seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        stored(path)
        num_cut += contents(path) != whole
        collect(path)
        assert contents(path) == whole
    assert num_cut > 0
