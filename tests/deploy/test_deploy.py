"""The launch recipes: a stop reaches the ranks once, trials are given back, and the scheduler is asked to requeue."""

import configparser
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from search.__main__ import parser
from search.storage.schema import FREE, attempts, leases
from trainer.distributed.signals import until_interrupted

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "kd-worker@.service"
BATCH = DEPLOY / "slurm" / "worker.sbatch"

SRUN = """#!{python}
# Stands for srun: a signal reaches every process of the step, as Slurm's own daemon on the node sends it.
import signal, subprocess, sys
import psutil

command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
step = subprocess.Popen(command, start_new_session=True)

def tell(number, _frame):
    tasks = psutil.Process(step.pid)
    for process in [*tasks.children(recursive=True), tasks]:
        process.send_signal(number)

for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, tell)
sys.exit(step.wait())
"""

SCONTROL = """#!/bin/sh
echo "$@" >> "$SCONTROL_LOG"
"""


def scripts() -> list[Path]:
    """Every shell script of the recipes."""
    return [*sorted(DEPLOY.rglob("*.sh")), BATCH]


@pytest.fixture
def scheduler(tmp_path: Path) -> dict[str, str]:
    """An environment in which `srun` and `scontrol` are stand-ins; what scontrol is told is in $SCONTROL_LOG."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN.format(python=sys.executable), "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "SCONTROL_LOG": str(tmp_path / "scontrol.log"),
        "SLURM_JOB_ID": "77",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "KD_PYTHON": sys.executable,
        "KD_RANKS": "2",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def job(
    tmp_path: Path, scheduler: dict[str, str], sqlite_url: str, small_study: Callable[..., str]
) -> "Iterator[subprocess.Popen[str]]":
    """A batch job of one node that works on a small study."""
    study = tmp_path / "small.toml"
    text = small_study(epochs=2000, student={"name": "unet", "width": 2}, more='\n[pruner]\nname = "none"\n')
    study.write_text(text)
    url = tmp_path / "url"
    url.write_text(f"{sqlite_url}\n")
    words = [str(study), "--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    started = subprocess.Popen(
        ["bash", str(BATCH), *words],
        env=scheduler | {"OPTUNA_STORAGE_FILE": str(url)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    yield started
    if started.poll() is None:
        started.send_signal(signal.SIGTERM)
    started.communicate(timeout=60)


@pytest.mark.slow
def test_slurm_s_warning_gives_all_trials_back_and_the_job_is_requeued(
    job: "subprocess.Popen[str]", scheduler: dict[str, str], sqlite_url: str
) -> None:
    engine = sa.create_engine(sqlite_url, poolclass=sa.NullPool)
    limit = time.monotonic() + 120
    while not _checkpoints(engine):
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < limit, "no trial came to its first checkpoint"
        time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=100)
    assert job.returncode == 0, out
    assert Path(scheduler["SCONTROL_LOG"]).read_text() == "requeue 77\n"
    with engine.connect() as connection:
        states = connection.execute(sa.select(leases.c.state)).scalars().all()
        ends = connection.execute(sa.select(attempts.c.why)).scalars().all()
    assert states, out
    assert set(states) == {FREE}, out
    assert set(ends) == {"preempted"}, out


def _checkpoints(engine: sa.Engine) -> bool:
    """Whether every trial in flight has a checkpoint to go on from."""
    if not Path(engine.url.database or "").is_file() or not sa.inspect(engine).has_table(leases.name):
        return False
    with engine.connect() as connection:
        epochs = connection.execute(sa.select(leases.c.epoch)).scalars().all()
    return len(epochs) == 4 and min(epochs) >= 1


def test_a_cancelled_job_is_not_requeued(tmp_path: Path, scheduler: dict[str, str]) -> None:
    """The step stands for itself here: it ends with 143 on TERM, as a worker does that gave its trials back."""
    step = tmp_path / "bin" / "srun"
    step.write_text("#!/bin/bash\ntrap 'exit 143' TERM\necho started\nwhile true; do sleep 0.05; done\n")
    job = subprocess.Popen(["bash", str(BATCH)], env=scheduler, text=True, stdout=subprocess.PIPE)
    assert job.stdout is not None
    assert job.stdout.readline() == "started\n"
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=20)
    assert job.returncode == 143
    assert not Path(scheduler["SCONTROL_LOG"]).exists()


@pytest.mark.parametrize(
    ("pause", "same", "code"), [(0.0, 60.0, 0), (0.4, 0.2, 128 + signal.SIGTERM)], ids=["echo", "second wish"]
)
def test_an_echo_of_a_stop_is_the_same_stop_and_a_later_one_ends_at_once(pause: float, same: float, code: int) -> None:
    program = (
        "import os, signal, sys, time\n"
        "from trainer.distributed import signals as stopping\n"
        f"stopping.SAME_STOP_SECONDS = {same}\n"
        "asked = []\n"
        "stopping.obey_signals(lambda: asked.append(1))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        f"time.sleep({pause})\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(0 if asked == [1] else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == code


def test_an_interrupt_that_is_lost_where_it_is_raised_ends_the_loop_at_its_next_pause() -> None:
    before = signal.getsignal(signal.SIGINT)
    with until_interrupted() as pause:
        with contextlib.suppress(KeyboardInterrupt):  # as in a callback of a weak reference
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            pause(60)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_worker_script_becomes_work_with_the_settings_of_the_environment(tmp_path: Path) -> None:
    """An interpreter of the test's own shows its words; it has the script's own process, so signals reach it."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/bash\necho "$$ $*"\nexit 3\n')
    stand_in.chmod(0o755)
    environment = os.environ | {"KD_PYTHON": str(stand_in), "KD_RANKS": "2", "KD_STOP_SECONDS": "7"}
    words = [str(DEPLOY / "worker.sh"), "polyp-kd", "--slots", "8"]
    script = subprocess.Popen(words, env=environment, text=True, stdout=subprocess.PIPE)
    out, _ = script.communicate(timeout=20)
    assert script.returncode == 3
    pid, _, module, *given = out.split()
    assert (int(pid), module, given[0]) == (script.pid, "search", "work")
    args = parser(given).parse_args(given)
    assert (args.study, args.slots, args.ranks, args.restarts, args.stop_seconds) == ("polyp-kd", 8, "2", 3, 7)


def test_the_batch_script_asks_for_the_warning_and_the_queue_that_it_relies_on():
    options = dict.fromkeys(
        line.split(maxsplit=1)[1] for line in BATCH.read_text().splitlines() if line[:7] == "#SBATCH"
    )
    assert {"--signal=B:USR1@180", "--requeue", "--ntasks-per-node=1"} <= set(options)


def test_the_unit_stops_the_script_alone_and_gives_it_longer_than_the_ranks_have():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    assert service["KillMode"] == "mixed"
    assert service["SuccessExitStatus"] == "143"
    ranks = next(line for line in UNIT.read_text().splitlines() if "KD_STOP_SECONDS=" in line).split("=")[-1]
    assert int(service["TimeoutStopSec"]) > int(ranks) + 20
    script = service["ExecStart"].split()[0].replace("/opt/kd-search", str(ROOT))
    assert os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    here = tmp_path / "kd-worker@polyp-kd.service"
    here.write_text(UNIT.read_text().replace("/opt/kd-search", str(ROOT)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(here)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.name)
def test_every_script_runs_under_strict_bash_and_parses(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", *map(str, scripts())], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
