"""A search of two arms that has ended, and workers that train what is confirmed of it."""

import argparse
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from search.commands import confirm
from search.commands.simulate import simulated_identity
from search.confirm.plan import Plan, made
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents, plateau
from search.spec.config import Dashboard
from search.spec.load import load
from search.storage.database import open_storage
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from search.study.create import open_search
from search.study.snapshot import read
from trainer.config import RunConfig
from trainer.reports import PerImageResult

Finish = Callable[[str], StudyAdapter]


STUDY = """
[objective]
maximize = "dice"
[front]
along = "student.width"
[run]
method = "kl"
epochs = 2
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4, test = 6 }
teacher = { name = "unet", width = 8, checkpoint = "teacher.safetensors" }
student = { name = "unet", width = 4 }
losses = { ce = {}, kl = { weight = 1.0 } }
optim = { lr = 1e-3 }
[space]
"student.width" = { choices = [2, 4] }
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
"losses.kl.temperature" = { low = 1.0, high = 8.0 }
[sampler]
name = "random"
[budget]
trials = 6
in_flight = 6
[[arms]]
name = "no-kd"
set = { method = "none" }
[confirm]
seeds = [11, 12, 13]
top = 3
"""


def measured(run: RunConfig) -> tuple[PerImageResult, ...]:
    """What a simulated network did on four images: its plateau, and nan where there is no surface."""
    dice = tuple(plateau(run) - 0.01 * i for i in range(4))
    columns = {"dice": dice, "hd95": (math.nan, 1.0, 2.0, 3.0)}
    names = tuple(f"blobs/{i}" for i in range(4))
    return tuple(
        PerImageResult(part, 0.5, names, ("blobs",) * 4, names, columns, ((4.0, 2.0, 1.0),))
        for part in ("validation", "test")
    )


def train(search: StudyAdapter, folder: Path, owner: str = "me", ttl: float = 600.0, fail_share: float = 0.0) -> str:
    """One whole worker in this thread, but for its process and the training."""
    students = SimulatedStudents(Curves(), slots=3, metric="dice", epoch_seconds=0.0, fail_share=fail_share)
    students.measure = measured if search.spec.confirms is not None else None
    settings = WorkerSettings(Owner(owner, "here"), 3, folder, 1, {}, breach=lambda _: None, ttl=ttl)
    return run_group(SingleProcess(), students, DatabaseThread(search, settings)).text


def plan_for(search: StudyAdapter, **changes: Any) -> Plan:
    rows = read(search.opened, search.spec.name)
    table = search.spec.confirm.model_copy(update=changes)
    name = f"{search.spec.name}.confirm"
    return made(rows, table, name=name, dashboard=Dashboard(), early=False)


@pytest.fixture
def finish(tmp_path: Path, open_again: Callable[..., StudyAdapter]) -> Finish:
    """A search of two arms that has ended, in a database of the given URL."""

    def finished(url: str) -> StudyAdapter:
        search = open_again(url, "tiny", STUDY)
        train(search, tmp_path)
        return search

    return finished


@pytest.fixture(scope="package")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a search of two arms that has ended."""
    folder = tmp_path_factory.mktemp("ended")
    (folder / "tiny.toml").write_text(STUDY)
    spec, url = load(folder / "tiny.toml"), f"sqlite:///{folder / 'study.db'}"
    opened = open_storage(url)
    train(open_search(opened, url, spec, simulated_identity(spec)), folder)
    opened.engine.dispose()
    return folder / "study.db"


@pytest.fixture
def ended(kept: Path, sqlite_url: str, open_again: Callable[..., StudyAdapter]) -> StudyAdapter:
    """That search in a database of the test's own."""
    with closing(sqlite3.connect(kept)) as source, closing(sqlite3.connect(sqlite_url[10:])) as copy:
        source.backup(copy)
    return open_again(sqlite_url, "tiny", STUDY)


def words(url: str, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    confirm.add_arguments(parser)
    return parser.parse_args(["tiny", "--storage", url, *more])


@pytest.fixture(scope="session", name="study_text")
def _study_text() -> str:
    """The text of its study file."""
    return STUDY


@pytest.fixture(scope="session", name="measured")
def _measured() -> Callable[..., tuple[PerImageResult, ...]]:
    """What a simulated network did on its images: `measured(run)`."""
    return measured


@pytest.fixture(scope="session", name="train")
def _train() -> Callable[..., str]:
    """One whole worker: `train(search, folder)`; why it ended."""
    return train


@pytest.fixture(scope="session", name="plan_for")
def _plan_for() -> Callable[..., Plan]:
    """The plan that confirms a search: `plan_for(search, seeds=(11, 12))`."""
    return plan_for


@pytest.fixture(scope="session", name="words")
def _words() -> Callable[..., argparse.Namespace]:
    """The command's arguments: `words(url, "--plan")`."""
    return words
