"""One study, several processes: no trial runs twice, and one that is killed loses no other."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from experiments.cli import main
from experiments.sweep.objective import Objective
from experiments.sweep.studies import WORKER, open_storage

NUM_TRIALS = 14
TRIAL_SECONDS = 0.1
PATIENCE = 60.0
POLICY = "chain(stop=cumulative)"

Begin = Callable[[str | None], tuple[BaseProcess, Path]]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


def work(arguments: list[str], log: Path) -> None:
    """What each process does: the command, its trials slow enough to be met in the middle."""
    run_trial = Objective.__call__

    def slow(self: Objective, trial: optuna.Trial) -> Any:
        with log.open("a") as lines:
            lines.write(f"{os.getpid()} {trial.number}\n")
        trial.set_user_attr(WORKER, f"{os.uname().nodename}:{os.getpid()}")
        time.sleep(TRIAL_SECONDS)
        return run_trial(self, trial)

    Objective.__call__ = slow  # type: ignore[method-assign]
    with (log.parent / f"said-{os.getpid()}").open("w") as said:
        sys.stdout = sys.stderr = said
        code = main(arguments)
    os._exit(code)


@pytest.fixture
def begin(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Starts one more process on a study: (storage) → it, and a log of the trials begun."""
    monkeypatch.setattr("experiments.sweep.running._figures", lambda *_: {})
    begun: list[BaseProcess] = []

    def start(storage: str | None) -> tuple[BaseProcess, Path]:
        arguments = ["sweep", *made.options, "--policies", POLICY, "--trials", NUM_TRIALS]
        # Without a storage of their own they share the folder, where one is.
        out = tmp_path if storage is None else tmp_path / f"out-{len(begun)}"
        arguments += ["--out", out, *(() if storage is None else ("--storage", storage))]
        log = tmp_path / "begun"
        process = multiprocessing.get_context("fork").Process(
            target=work, args=(list(map(str, arguments)), log)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            process.start()
        begun.append(process)
        return process, log

    yield start
    for process in begun:
        process.kill()
        process.join()


class Watched:
    """The trials of a study that others run."""

    def __init__(self, url: str | None, folder: Path) -> None:
        self.storage = open_storage(url, folder)

    def trials(self) -> list[FrozenTrial]:
        """As far as they are there."""
        try:
            study = optuna.load_study(study_name="sweep", storage=self.storage)
        except KeyError:
            return []
        return study.get_trials(deepcopy=False)

    def close(self) -> None:
        if isinstance(self.storage, RDBStorage):
            self.storage.remove_session()
            self.storage.engine.dispose()


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.05)


def worker_of(trial: FrozenTrial) -> int:
    return int(trial.user_attrs[WORKER].rpartition(":")[2])


def check_shared(storage: str | None, tmp_path: Path, begin: Begin) -> None:
    """Two processes, one killed in the middle of a trial after it has finished some."""
    (first, log), (second, _) = begin(storage), begin(storage)
    with closing(Watched(storage, tmp_path)) as watched:
        check_watched(watched, log, first, second)


def check_watched(watched: Watched, log: Path, first: BaseProcess, second: BaseProcess) -> None:
    one, other = first.pid, second.pid
    assert one is not None
    assert other is not None

    def both_have_finished_some_and_the_first_is_at_work() -> bool:
        found = watched.trials()
        done = Counter(worker_of(t) for t in found if t.state == TrialState.COMPLETE)
        busy = {worker_of(t) for t in found if t.state == TrialState.RUNNING and t.user_attrs}
        return min(done[one] - 1, done[other]) >= 1 and one in busy

    wait_until(both_have_finished_some_and_the_first_is_at_work)
    os.kill(one, signal.SIGKILL)
    first.join()
    kept = [t for t in watched.trials() if t.state == TrialState.COMPLETE]
    second.join(PATIENCE)
    assert second.exitcode == 0

    found = watched.trials()
    begun = [line.split() for line in log.read_text().splitlines()]
    numbers = Counter(int(number) for _, number in begun)
    assert set(numbers.values()) == {1}  # no trial twice
    done = [trial for trial in found if trial.state == TrialState.COMPLETE]
    assert {worker_of(trial) for trial in done} == {one, other}
    assert NUM_TRIALS <= len(done) <= NUM_TRIALS + 1
    # What was published was queued once, by whoever came first.
    published = [t.params for t in found if t.params.get(f"{POLICY}.length") == 12]
    assert sum(p[f"{POLICY}.stop.log_threshold"] == -0.6 for p in published) == 1
    # What was finished stays, and what was not is done by the other.
    after = {trial.number: trial for trial in found}
    assert all(after[trial.number].values == trial.values for trial in kept)
    lost = [trial for trial in found if trial.state == TrialState.FAIL]
    assert [worker_of(trial) for trial in lost] == [one] * len(lost)
    for trial in lost:
        if trial.params:
            assert any(other.params == trial.params for other in done)
    assert not any(trial.state == TrialState.RUNNING for trial in found)


def test_two_processes_on_a_journal(tmp_path: Path, begin: Begin) -> None:
    check_shared(f"journal:{tmp_path / 'study.log'}", tmp_path, begin)


def test_the_same_command_beside_itself(tmp_path: Path, begin: Begin) -> None:
    check_shared(None, tmp_path, begin)


def server_binary(name: str) -> str | None:
    """Of PostgreSQL: on the path, or where Debian puts it."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(places[-1]) if places else None)


@pytest.fixture
def postgres() -> Iterator[str]:
    """A server of its own, and its URL."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (the extra `sweep`)")
    initdb, server = server_binary("initdb"), server_binary("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    # It does not run as root, and its owner must reach the folder.
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="adaeagle-postgres-"))
    if user:
        shutil.chown(folder, "postgres")
    try:
        make = [initdb, "-D", str(folder / "data"), "-U", "tester", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **user)  # type: ignore[call-overload]
        run = [server, "-D", str(folder / "data"), "-k", str(folder), "-c", "listen_addresses="]
        process = subprocess.Popen(  # type: ignore[call-overload]
            [*run, "-c", "fsync=off"], cwd=folder, stderr=subprocess.DEVNULL, **user
        )
        try:
            wait_until(lambda: (folder / ".s.PGSQL.5432").exists())
            yield f"postgresql+psycopg://tester@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)  # without waiting for those who are connected
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_two_processes_on_postgresql(postgres: str, tmp_path: Path, begin: Begin) -> None:
    check_shared(postgres, tmp_path, begin)
