"""The workers of a campaign: processes behind gates of their own, started again as a service manager would."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from benchmarks.campaign.gate import Gate
from search.execution.owner import owner_of


@dataclass
class Worker:
    """One worker (with real ranks: one torchrun) and its way to the database."""

    index: int
    gate: Gate
    process: "subprocess.Popen[bytes] | None" = None
    back_at: float = 0.0
    """Monotonic seconds before which it is not started again."""
    frozen: bool = False
    done: bool = False
    """It ended by itself, with nothing left to do."""
    codes: list[int] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def owner(self) -> str | None:
        """The name under which it holds leases; None while it does not run."""
        if self.process is None or not self.alive:
            return None
        return owner_of(self.process.pid, 0).name

    def send(self, number: int) -> None:
        """A signal to the process, if it runs."""
        if self.process is not None and self.alive:
            self.process.send_signal(number)

    def ranks(self) -> list[int]:
        """The process ids of a torchrun's ranks."""
        if self.process is None:
            return []
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()] if path.is_file() else []


class WorkerPool:
    """Starts workers and keeps them running until the search has nothing left for them."""

    def __init__(self, command: Sequence[str], url: sa.URL, log: Path, *, count: int) -> None:
        self._command = list(command)
        self._url = url
        self._log = log
        self.workers = [Worker(index, Gate(url.host or "127.0.0.1", url.port or 5432)) for index in range(count)]
        self.exits: list[tuple[int, int]] = []
        """(worker, exit code) of each end."""

    def tend(self, finished: bool) -> None:
        """Start again who is down and due; `finished`: whoever ended well stays away."""
        for worker in self.workers:
            if worker.alive or worker.done:
                continue
            if worker.process is not None:
                code = worker.process.wait()
                self.exits.append((worker.index, code))
                worker.process = None
                worker.frozen = False
                if finished and code == 0:
                    worker.done = True
                    continue
            if time.monotonic() >= worker.back_at:
                worker.process = subprocess.Popen(
                    self._command, env=self._environment(worker), stderr=self._log.open("ab"), stdout=subprocess.DEVNULL
                )

    def end(self) -> None:
        """Kill what still runs and close the gates."""
        for worker in self.workers:
            if worker.process is not None and worker.alive:
                ranks = worker.ranks()
                worker.send(signal.SIGCONT)
                worker.process.kill()
                worker.process.wait()
                for pid in ranks:
                    kill(pid, signal.SIGKILL)
            worker.gate.close()

    def _environment(self, worker: Worker) -> Mapping[str, str]:
        url = self._url.set(host="127.0.0.1", port=worker.gate.port)
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        text = url.render_as_string(hide_password=False)
        return {**os.environ, "PATH": programs, "OPTUNA_STORAGE": text, "OMP_NUM_THREADS": "1"}


def kill(pid: int, number: int) -> bool:
    """Send a signal to any process; False where it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def state_of(pid: int) -> str:
    """A process's state letter from /proc (T: stopped, Z: dead); "" where it is gone."""
    path = Path(f"/proc/{pid}/stat")
    try:
        return path.read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
