"""The worker for real: torchrun, two gloo ranks, a real database, and what comes out of it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from search.spec.identity import arm_identity
from search.spec.load import identity, load, record
from search.storage.database import open_storage
from search.study.create import Identity, open_search
from search.study.progress import SearchProgress, read_progress
from trainer import checkpoint
from trainer.data import open_data

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., list[Any]]

STUDY = """
[objective]
maximize = "dice"
[front]
along = "student.width"
[run]
method     = "kl"
epochs     = {epochs}
batch_size = 16
[run.data]
name       = "blobs"
size       = 32
train      = 16
validation = 4
test       = 4
augment    = "{augment}"
[run.teacher]
name       = "unet"
width      = 8
checkpoint = "{folder}/teacher.safetensors"
[run.student]
name  = "unet"
width = 4
[run.losses]
ce      = {{ weight = 1.0 }}
kl      = {{ weight = 1.0 }}
selfreg = {{ weight = 0.01 }}
[run.optim]
lr = 5e-3
[teach]
epochs = 1
[space]
"losses.kl.temperature" = {{ low = 1.0, high = 8.0, log = true }}
"student.width" = {{ choices = [2, 4] }}
[sampler]
name = "random"
[pruner]
name = "median"
startup = 2
[budget]
trials = {trials}
in_flight = 4
[[arms]]
name = "no-kd"
set = {{ method = "none" }}
trials = 2
"""


def _study(tmp_path: Path, *, epochs: int = 3, trials: int = 4, augment: str = "none") -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(STUDY.format(folder=tmp_path, epochs=epochs, trials=trials, augment=augment))
    return path


def _words(study: Path, url: str, *words: str) -> list[str]:
    """The worker's script and its flags."""
    own = ["--runs", str(study.parent / "runs"), "--cache", str(study.parent / "cache"), *words]
    script = str(ROOT / "search" / "worker.py")
    return [script, "--study", str(study), "--storage", url, "--ttl", "4", "--note-every", "0", *own]


def _torchrun(study: Path, url: str, *words: str) -> "subprocess.Popen[str]":
    """A worker of two ranks as torchrun starts it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*command, *_words(study, url, *words)],
        text=True,
        cwd=study.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture
def start(launch: Callable[..., Any]) -> Start:
    """Two ranks with the variables that torchrun gives them, forked from this process: `start(study, url, *words)`."""

    def begin(study: Path, url: str, *words: str) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        where = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = _words(study, url, *words)
        return [launch(*own, cwd=study.parent, **where, RANK=str(n), LOCAL_RANK=str(n)) for n in range(2)]

    return begin


def _end(ranks: Sequence[Any], seconds: float = 250) -> list[int]:
    """The exit codes."""
    return [rank.wait(seconds) for rank in ranks]


def _progress(url: str, name: str = "tiny") -> SearchProgress:
    return read_progress(open_storage(url, create=False), name)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, module: Command) -> Path:
    """The weights of a teacher, trained once for all tests; what they hold depends on no folder."""
    folder = tmp_path_factory.mktemp("teacher")
    module("trainer", "teach", _study(folder), "--cache", folder / "cache", cwd=folder)
    return folder / "teacher.safetensors"


@pytest.fixture
def taught(tmp_path: Path, teacher: Path) -> Path:
    """A study whose teacher is trained."""
    shutil.copy(teacher, tmp_path)
    return _study(tmp_path)


@pytest.mark.slow
def test_two_ranks_finish_every_arm_exactly_and_the_export_trains_again_bit_for_bit(
    taught: Path, postgres_url: str, module: Command, listening: dict[int, set[str]]
) -> None:
    """What torchrun --standalone itself opens to the network is named by the worker, once; the ranks open nothing."""
    study = _study(taught.parent, augment="flips")
    worker = _torchrun(study, postgres_url, "--slots", "3")
    out, _ = worker.communicate(timeout=250)
    assert worker.returncode == 0, out
    (line,) = (line for line in out.splitlines() if "torchrun itself listens" in line)
    assert listening[worker.pid]
    # What it opened is seen on its children, too, until they have become the programs that it starts.
    assert {each for held in listening.values() for each in held if each not in line} == set()
    listening.clear()
    assert "kd-local" in line
    progress = _progress(postgres_url)
    arms = progress.arms
    assert {name: arm.finished for name, arm in arms.items()} == {"kd": 4, "no-kd": 2}
    assert all(arm.running == arm.waiting == 0 and not arm.failed for arm in arms.values())
    assert {line.choice for line in progress.front} == {2, 4}
    best = study.parent / "best.json"
    module("search", "export", "tiny", "--storage", postgres_url, "-o", best)
    exported = json.loads(best.read_text())
    assert exported["best"][0]["ranks"] == 2
    assert Path(exported["best"][0]["weights"]).is_file()
    again = module("trainer", "fit", best, "--cache", study.parent / "cache", cwd=study.parent)
    assert "equal, bit for bit" in again.stdout + again.stderr
    # A worker on a finished search: nothing to do, exit code 0.
    module(*_words(study, postgres_url), cwd=study.parent)


@pytest.mark.slow
def test_one_process_finishes_every_arm_exactly_in_an_sqlite_file(
    taught: Path, sqlite_url: str, module: Command
) -> None:
    module(*_words(_study(taught.parent, epochs=1, trials=2), sqlite_url), cwd=taught.parent)
    arms = _progress(sqlite_url).arms
    assert {name: arm.finished for name, arm in arms.items()} == {"kd": 2, "no-kd": 2}
    assert all(arm.running == arm.waiting == 0 and not arm.failed for arm in arms.values())


@pytest.mark.slow
def test_a_terminated_worker_gives_its_trials_back_and_the_next_goes_on_from_the_checkpoints(
    taught: Path, sqlite_url: str, start: Start
) -> None:
    study = _study(taught.parent, epochs=400, trials=2)
    worker = _torchrun(study, sqlite_url, "--set", "budget.trials=2")
    _until(lambda: _epochs(sqlite_url), [worker])
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=60)
    opened = open_storage(sqlite_url, create=False)
    row = opened.searches.search("tiny")
    assert row is not None
    studies = [arm.study_id for arm in opened.searches.arms_of(row.search_id)]
    left = opened.leases.of_studies(studies)
    assert left, "nothing was in flight"
    assert {seen.state for seen in left} == {"free"}
    assert {attempt.why for attempt in opened.leases.attempts_of(studies)} <= {"preempted", "finished", "pruned"}
    before = {seen.trial_id: seen.epoch for seen in left}
    assert max(before.values()) >= 1
    ranks = start(study, sqlite_url)
    _until(lambda: any(seen.token == 2 and seen.epoch > before[seen.trial_id] for seen in _leases(sqlite_url)), ranks)
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    _end(ranks, 60)
    for attempt in opened.leases.attempts_of(studies):
        if attempt.token == 2:
            assert attempt.first_epoch == before[attempt.trial_id] + 1


@pytest.mark.slow
def test_a_killed_worker_is_adopted_by_another_under_the_same_numbers(
    taught: Path, postgres_url: str, start: Start
) -> None:
    study = _study(taught.parent, epochs=4, trials=2)
    first = start(study, postgres_url, "--slots", "2")
    _until(lambda: _epochs(postgres_url), first)
    for rank in first:
        rank.kill()
    assert _end(first) == [-signal.SIGKILL] * 2
    second = start(study, postgres_url, "--slots", "2")
    assert _end(second) == [0, 0], second[0].log
    arms = _progress(postgres_url).arms
    assert {name: arm.finished for name, arm in arms.items()} == {"kd": 2, "no-kd": 2}
    opened = open_storage(postgres_url, create=False)
    row = opened.searches.search("tiny")
    assert row is not None
    studies = [arm.study_id for arm in opened.searches.arms_of(row.search_id)]
    assert "lost" in {attempt.why for attempt in opened.leases.attempts_of(studies)}


@pytest.mark.slow
def test_a_study_whose_identity_changed_is_refused_with_the_difference(
    taught: Path, sqlite_url: str, module: Command
) -> None:
    spec = load(taught, [])
    data = open_data(spec.run.data, cache=taught.parent / "cache")
    contents = {
        "data_hash": data.content_hash,
        "teacher_hash": checkpoint.weights(taught.parent / "teacher.safetensors").sha256,
    }
    arms = {arm.name: arm_identity(arm, **contents) for arm in spec.arms}
    opened = open_storage(sqlite_url)
    open_search(opened, sqlite_url, spec, Identity(identity(spec, **contents), arms, record(spec, **contents)))
    opened.engine.dispose()
    changed = _study(taught.parent, epochs=4)
    refused = module(*_words(changed, sqlite_url), cwd=taught.parent, code=2).stderr
    assert "run.epochs: 3 -> 4" in refused
    assert "content." not in refused  # the difference is of the file alone
    assert "Traceback" not in refused


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["--study", "studies/demo.toml", "--name", "../evil"], "--name", id="unsafe name"),
        pytest.param(["--study", "studies/demi.toml"], "demi", id="no such study"),
        pytest.param(["--study", "studies/demo.toml", "--slots", "0"], "--slots = 0", id="no slot"),
        pytest.param(["--study", "studies/demo.toml", "--set", "run.epoch=2"], "epochs", id="unknown key"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], expected: str, module: Command) -> None:
    done = module(str(ROOT / "search" / "worker.py"), *words, code=2)
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def _leases(url: str) -> list[object]:
    try:
        opened = open_storage(url, create=False)
        row = opened.searches.search("tiny")
        arms = [] if row is None else opened.searches.arms_of(row.search_id)
        return [] if row is None else opened.leases.of_studies([arm.study_id for arm in arms])
    except Exception as error:
        if "holds no search yet" in str(error) or "no such file" in str(error):
            return []
        raise


def _epochs(url: str) -> bool:
    """Whether some trial has a checkpoint of its first epoch."""
    return any(seen.epoch >= 1 for seen in _leases(url))


def _until(happened: Callable[[], bool], processes: Sequence[Any], seconds: float = 150) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        ended = [each.log for each in processes if each.poll() is not None]
        assert not ended or happened(), f"it ended before: {ended}"
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.2)
