"""Studies that are shared: made once, joined by others, freed of what a killed process left."""

import os
import socket
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from experiments.sweep import studies
from experiments.sweep.studies import (
    WORKER,
    finished,
    free_lost_trials,
    open_storage,
    open_study,
    requeue,
    worker,
    worker_seed,
)

IDENTITY = {"trace": "one", "policies": ["chain"]}
FIRST: list[dict[str, Any]] = [{"x": 3}, {"x": 5}]
DOWN = {"seconds": StudyDirection.MINIMIZE}


@pytest.fixture(params=["sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    url = None if request.param == "sqlite" else f"journal:{tmp_path}/study.log"
    return open_storage(url, tmp_path)


def objective(trial: optuna.Trial) -> float:
    trial.set_user_attr(WORKER, worker())
    return trial.suggest_int("x", 0, 9)


def open_one(storage: BaseStorage, **changed: Any) -> Study:
    return open_study("s", storage, {**IDENTITY, **changed}, DOWN, FIRST)


def states(study: Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def _ended() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_was_published_runs_first_and_once(storage: BaseStorage) -> None:
    study = open_one(storage)
    again = open_one(storage)  # another process, at the same time
    assert states(again) == [TrialState.WAITING] * 2
    study.optimize(objective, n_trials=2)
    assert [trial.params["x"] for trial in again.get_trials()] == [3, 5]
    assert states(open_one(storage)) == [TrialState.COMPLETE] * 2


def test_metrics_have_names(storage: BaseStorage) -> None:
    assert open_one(storage).metric_names == ["seconds"]


@pytest.mark.parametrize("name", ["what?", "p%41q", "a {b} #c", "x&y=z"])
def test_a_database_lies_in_its_folder_whatever_that_is_called(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    open_one(open_storage(None, tmp_path / name))
    assert (tmp_path / name / "study.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:s3cret@host:1/db", "postgresql://me:***@host:1/db"),
        ("mysql://me:p@ss@host/db", "mysql://me:***@host/db"),
        ("mysql://host/db?user=me&password=s3cret", "mysql://host/db?user=me&password=***"),
        ("cannot connect to 'mysql://me:s3cret@h/d'", "cannot connect to 'mysql://me:***@h/d'"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("journal:/a@b:c/d@e", "journal:/a@b:c/d@e"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert studies.without_secrets(url) == shown


def test_a_study_of_something_else_is_refused(storage: BaseStorage) -> None:
    open_one(storage)
    with pytest.raises(ValueError, match="'s' is another one: trace was 'one', is 'two'"):
        open_one(storage, trace="two")


def test_a_study_of_another_program_is_refused(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "LONGEST_WAIT", 0.0)
    optuna.create_study(study_name="s", storage=storage)
    with pytest.raises(ValueError, match="was not made by adaeagle sweep"):
        open_one(storage)


def test_the_queue_of_a_maker_that_was_killed_is_filled_by_the_next(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "LONGEST_WAIT", 0.2)
    made = optuna.create_study(study_name="s", storage=storage)
    made.set_user_attr(studies.IDENTITY, IDENTITY)
    made.enqueue_trial({"x": 3})
    study = open_one(storage)
    assert [trial.system_attrs["fixed_params"] for trial in study.get_trials()] == FIRST


def test_a_joining_process_waits_for_the_queue(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = optuna.create_study(study_name="s", storage=storage)
    made.set_user_attr(studies.IDENTITY, IDENTITY)

    def meanwhile(seconds: float) -> None:
        for parameters in FIRST:
            made.enqueue_trial(parameters)
        made.set_user_attr(studies.READY, True)

    monkeypatch.setattr("experiments.sweep.studies.time.sleep", meanwhile)
    assert len(open_one(storage).get_trials()) == 2


def test_trials_of_a_killed_process_are_given_up_and_queued_again(storage: BaseStorage) -> None:
    study = open_one(storage)
    lost, own = study.ask(), study.ask()
    lost.suggest_int("x", 0, 9)
    lost.set_user_attr(WORKER, f"{socket.gethostname()}:{_ended()}")
    own.set_user_attr(WORKER, worker())
    free_lost_trials(study)
    free_lost_trials(study)
    assert states(study) == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
    assert study.get_trials()[2].system_attrs["fixed_params"] == {"x": 3}
    study.tell(own, 1.0)
    assert len(finished(study)) == 1


def test_trials_of_other_machines_are_given_up_after_an_hour(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_one(storage)
    study.ask().set_user_attr(WORKER, f"elsewhere:{os.getpid()}")
    study.ask()  # its process did not get so far as to say who it is
    free_lost_trials(study)
    assert states(study) == [TrialState.RUNNING] * 2

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=1.1)

    monkeypatch.setattr(studies, "datetime", Later)
    free_lost_trials(study)
    assert states(study) == [TrialState.FAIL] * 2 + [TrialState.WAITING] * 2


def test_what_is_queued_again_has_the_same_parameters(storage: BaseStorage) -> None:
    study = open_one(storage)
    study.optimize(objective, n_trials=3)
    drawn = study.get_trials()[2]
    requeue(study, drawn)
    study.optimize(objective, n_trials=1)
    assert study.get_trials()[3].params == drawn.params


def test_the_first_process_has_the_seed_that_was_given_and_others_their_own(
    storage: BaseStorage,
) -> None:
    study = open_one(storage)
    assert worker_seed(7, study) == 7
    study.optimize(objective, n_trials=1)
    later = {worker_seed(7, study) for _ in range(3)}
    assert len(later) == 3
    assert 7 not in later


def test_a_database_whose_tables_another_process_is_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "SECONDS_BETWEEN", 0.0)
    tries = []

    def make(*arguments: Any, **options: Any) -> BaseStorage:
        tries.append(arguments)
        if len(tries) < 3:
            raise OperationalError("CREATE TABLE studies", None, Exception("already exists"))
        return RDBStorage(*arguments, **options)

    monkeypatch.setattr(studies, "RDBStorage", make)
    assert open_one(open_storage(None, tmp_path)).study_name == "s"
    assert len(tries) == 3
