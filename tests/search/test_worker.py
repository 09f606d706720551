"""The worker for real: torchrun, two gloo ranks, a real database, and what comes out of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
augment    = "flips"
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


def _study(tmp_path: Path, *, epochs: int = 3, trials: int = 4, name: str = "tiny") -> Path:
    path = tmp_path / f"{name}.toml"
    path.write_text(STUDY.format(folder=tmp_path, epochs=epochs, trials=trials))
    return path


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def _worker(study: Path, url: str, *words: str, ranks: int = 2) -> "subprocess.Popen[str]":
    folder = study.parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [str(ROOT / "search" / "worker.py"), "--study", str(study), "--storage", url, "--ttl", "4"]
    command += ["--note-every", "0", "--runs", str(folder / "runs"), "--cache", str(folder / "cache"), *words]
    return subprocess.Popen(
        command, text=True, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _end(worker: "subprocess.Popen[str]", seconds: float = 250) -> str:
    out, _ = worker.communicate(timeout=seconds)
    return out


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
    out = _end(worker := _worker(taught, postgres_url, "--slots", "3"))
    assert worker.returncode == 0, out
    (line,) = (line for line in out.splitlines() if "torchrun itself listens" in line)
    assert {each for each in listening.pop(worker.pid) if each not in line} == set()
    assert "kd-local" in line
    progress = _progress(postgres_url)
    arms = progress.arms
    assert {name: arm.finished for name, arm in arms.items()} == {"kd": 4, "no-kd": 2}
    assert all(arm.running == arm.waiting == 0 and not arm.failed for arm in arms.values())
    assert {line.choice for line in progress.front} == {2, 4}
    best = taught.parent / "best.json"
    module("search", "export", "tiny", "--storage", postgres_url, "-o", best)
    exported = json.loads(best.read_text())
    assert exported["best"][0]["ranks"] == 2
    assert Path(exported["best"][0]["weights"]).is_file()
    again = module("trainer", "fit", best, "--cache", taught.parent / "cache", cwd=taught.parent)
    assert "equal, bit for bit" in again.stdout + again.stderr
    # The same command on a finished search: nothing to do, exit code 0.
    out = _end(worker := _worker(taught, postgres_url))
    assert worker.returncode == 0, out
    listening.pop(worker.pid)


@pytest.mark.slow
def test_one_rank_finishes_every_arm_exactly_in_an_sqlite_file(taught: Path, sqlite_url: str) -> None:
    study = _study(taught.parent, epochs=1, trials=2)
    out = _end(worker := _worker(study, sqlite_url, ranks=1))
    assert worker.returncode == 0, out
    arms = _progress(sqlite_url).arms
    assert {name: arm.finished for name, arm in arms.items()} == {"kd": 2, "no-kd": 2}
    assert all(arm.running == arm.waiting == 0 and not arm.failed for arm in arms.values())


@pytest.mark.slow
def test_a_terminated_worker_gives_its_trials_back_and_the_next_goes_on_from_the_checkpoints(
    taught: Path, sqlite_url: str
) -> None:
    study = _study(taught.parent, epochs=400, trials=2)
    worker = _worker(study, sqlite_url, "--set", "budget.trials=2")
    _until(lambda: _epochs(sqlite_url), worker)
    worker.send_signal(signal.SIGTERM)
    _end(worker, 60)
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
    worker = _worker(study, sqlite_url)
    _until(lambda: any(seen.token == 2 and seen.epoch > before[seen.trial_id] for seen in _leases(sqlite_url)), worker)
    worker.send_signal(signal.SIGTERM)
    _end(worker, 60)
    for attempt in opened.leases.attempts_of(studies):
        if attempt.token == 2:
            assert attempt.first_epoch == before[attempt.trial_id] + 1


@pytest.mark.slow
def test_a_killed_worker_is_adopted_by_another_under_the_same_numbers(taught: Path, postgres_url: str) -> None:
    study = _study(taught.parent, epochs=8)
    first = _worker(study, postgres_url, "--slots", "2")
    _until(lambda: _epochs(postgres_url), first)
    _kill_tree(first)
    out = _end(second := _worker(study, postgres_url, "--slots", "2"))
    assert second.returncode == 0, out
    arms = _progress(postgres_url).arms
    assert {name: arm.finished for name, arm in arms.items()} == {"kd": 4, "no-kd": 2}
    opened = open_storage(postgres_url, create=False)
    row = opened.searches.search("tiny")
    assert row is not None
    studies = [arm.study_id for arm in opened.searches.arms_of(row.search_id)]
    assert "lost" in {attempt.why for attempt in opened.leases.attempts_of(studies)}


@pytest.mark.slow
def test_a_study_whose_identity_changed_is_refused_with_the_difference(taught: Path, sqlite_url: str) -> None:
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
    out = _end(worker := _worker(changed, sqlite_url, ranks=1))
    assert worker.returncode != 0
    assert "run.epochs: 3 -> 4" in out
    assert "content." not in out  # the difference is of the file alone
    assert 'search/worker.py", line' not in out  # torchrun prints a traceback of its own, the worker none


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


def _until(happened, worker: "subprocess.Popen[str]", seconds: float = 150) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert worker.poll() is None, _end(worker)
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.2)


def _kill_tree(worker: "subprocess.Popen[str]") -> None:
    """All at once: ranks that see the death of their parent would give their trials back."""
    worker.send_signal(signal.SIGSTOP)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(worker.pid)], capture_output=True, text=True, check=True
    )
    for pid in [*map(int, children.stdout.split()), worker.pid]:
        os.kill(pid, signal.SIGKILL)
    worker.wait()
    if worker.stdout is not None:
        worker.stdout.close()
