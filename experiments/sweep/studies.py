"""Studies that several processes share: opened or joined, and freed of what killed ones left.

What a study tries first is queued by the process that makes it; the others wait for that.
"""

import os
import re
import socket
import sqlite3
import time
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.pool import QueuePool

from adaeagle.data.files import difference
from experiments.sweep.samplers import quiet
from experiments.sweep.suggesting import Option

JOURNAL = "journal:"
IDENTITY, READY, WORKER, FIRST = "identity", "ready", "worker", "first"
LONGEST_TRIAL = timedelta(hours=1)
"""After which a trial of a process on another machine counts as lost."""
LONGEST_WAIT = 30.0
"""Seconds that the process that made a study may take to fill its queue."""
SQLITE_TIMEOUT = 60.0
"""Seconds to wait for another process's write."""
MOST_TRIES, SECONDS_BETWEEN = 4, 0.5
"""To open a database."""


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Where studies are kept.

    Args:
        url: as Optuna takes it, or `journal:FILE`; None: an SQLite file in `folder`.
        folder: of the run.
    """
    if url is None:
        return _local_storage(folder / "study.db")
    if url.startswith(JOURNAL):
        return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
    is_sqlite = url.startswith("sqlite")
    return _database(url, {"connect_args": {"timeout": SQLITE_TIMEOUT}} if is_sqlite else {})


def without_secrets(text: str) -> str:
    """A storage URL, or a text with one in it, whose passwords are not shown."""
    text = re.sub(r"(://[^\s:/@]*):[^\s/]*@", r"\1:***@", text)
    return re.sub(r"(?i)((?:password|passwd|token|secret|key)=)[^&\s'\"]*", r"\1***", text)


def _database(url: str, options: dict[str, Any]) -> RDBStorage:
    for _ in range(MOST_TRIES - 1):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except (OperationalError, ProgrammingError, IntegrityError):
            # Another process may be making the tables of a new database.
            time.sleep(SECONDS_BETWEEN)
    return RDBStorage(url, engine_kwargs=options)


def _local_storage(path: Path) -> BaseStorage:
    """SQLite that does not wait for the disk at every value: a kill loses nothing all the same.

    With a write-ahead log only a loss of power can take back the latest trials.
    """
    # Not by a URL, in which a path with ? or % or { would be another one.
    connect = partial(
        sqlite3.connect, path.resolve(), timeout=SQLITE_TIMEOUT, check_same_thread=False
    )
    storage = _database("sqlite://", {"creator": connect, "poolclass": QueuePool})

    @event.listens_for(storage.engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # the connections of before
    return storage


def open_study(
    name: str,
    storage: BaseStorage,
    identity: Mapping[str, Any],
    metrics: Mapping[str, StudyDirection],
    first: Sequence[Mapping[str, Option]],
) -> Study:
    """A study, new or begun.

    Args:
        name: of the study.
        storage: where it is.
        identity: what must be equal for trials to be of one study.
        metrics: names and directions of its objectives.
        first: parameters of the trials that are run before any other.

    Raises:
        ValueError: the study of that name is another one.
    """
    try:
        directions = list(metrics.values())
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        with quiet():
            study.set_metric_names(list(metrics))
        study.set_user_attr(IDENTITY, dict(identity))
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
        if _is_ready(study):
            _check_identity(study, identity)
            return study
    _check_identity(study, identity)
    for parameters in first:
        study.enqueue_trial(dict(parameters), user_attrs={FIRST: True}, skip_if_exists=True)
    study.set_user_attr(READY, True)
    return study


def _is_ready(study: Study) -> bool:
    """Waits until the process that made a study has filled its queue; false where it does not."""
    until = time.monotonic() + LONGEST_WAIT
    while READY not in study.user_attrs:
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _check_identity(study: Study, identity: Mapping[str, Any]) -> None:
    found = study.user_attrs.get(IDENTITY)
    if found is None:
        raise ValueError(f"study {study.study_name!r} was not made by adaeagle sweep")
    if found != dict(identity):
        raise ValueError(
            f"study {study.study_name!r} is another one: {difference(found, dict(identity))}"
        )


def worker_seed(seed: int, study: Study) -> int:
    """The seed of this process's sampler: the given one for the first, another for each later one.

    A process that joins or goes on must not draw again what the first one drew.
    """
    if not any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
        return seed
    return zlib.crc32(f"{seed} {worker()} {time.time_ns()}".encode())


def worker() -> str:
    """This process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def finished(study: Study) -> list[FrozenTrial]:
    """The trials that count: of a setting each, and with a value."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def free_lost_trials(study: Study) -> None:
    """Gives up trials whose process is gone, and queues them once more."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_lost(trial):
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                continue  # another process was faster, or it has ended after all
            requeue(study, trial)


def requeue(study: Study, trial: FrozenTrial) -> None:
    """Puts the parameters of a trial that did not end at the end of the queue."""
    study.enqueue_trial(trial.system_attrs.get("fixed_params") or trial.params)


def _is_lost(trial: FrozenTrial) -> bool:
    host, _, number = trial.user_attrs.get(WORKER, "").rpartition(":")
    if host == socket.gethostname() and os.name == "posix":
        return not _is_alive(int(number))
    return (
        trial.datetime_start is not None and datetime.now() - trial.datetime_start > LONGEST_TRIAL
    )


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
