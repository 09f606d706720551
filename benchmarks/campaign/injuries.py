"""The faults of a campaign. Each says when it is over, and proves that it happened.

A fault is a generator: it does harm, yields the seconds until its next step, and ends when the harm is over. Its return
value is the proof: what was observed that shows that the fault hit. Durations are multiples of the time-to-live.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from benchmarks.campaign.worker_pool import Worker, WorkerPool, kill, state_of

Steps = Generator[float, None, str]


class Server(Protocol):
    """The database server, as a campaign may harm it."""

    def crash(self) -> int:
        """End it at once, without a checkpoint of its own; returns the process id that is gone."""

    def start(self) -> None:
        """Start it again on the same port."""


@dataclass
class Scene:
    """What a fault may touch."""

    pool: WorkerPool
    server: Server
    ttl: float
    draw: random.Random
    disk: Path | None
    """A small file system of its own that holds the checkpoints; None where none could be mounted."""
    stop: Callable[[str | None], None]
    """Write a stop wish, or take it back."""
    holders: frozenset[str] = frozenset()
    """Owners that hold trials just now."""
    hit: set[str] = field(default_factory=set)
    """Owners that the last fault chose; empty: it hit all."""

    def victim(self) -> Worker:
        """A worker that holds trials and is not frozen. Raises LookupError where there is none."""
        able = [w for w in self.pool.workers if w.owner in self.holders and not w.frozen]
        if not able:
            raise LookupError("no worker holds a trial")
        chosen = self.draw.choice(able)
        self.hit = {str(chosen.owner)}
        return chosen


def kill_one(scene: Scene) -> Steps:
    """kill -9, and a new worker at once."""
    worker = scene.victim()
    proof = _shot(worker)
    yield 0.0
    return proof


def kill_one_for_long(scene: Scene) -> Steps:
    """kill -9, and no new worker for two times-to-live: others adopt."""
    worker = scene.victim()
    worker.back_at = time.monotonic() + 2 * scene.ttl
    proof = _shot(worker)
    yield 2 * scene.ttl
    return proof


def kill_all(scene: Scene) -> Steps:
    """kill -9 of every worker at once, as when a machine loses power."""
    proofs = [_shot(worker) for worker in scene.pool.workers if worker.alive]
    yield 0.0
    return "; ".join(proofs)


def freeze_short(scene: Scene) -> Steps:
    """SIGSTOP for half a time-to-live: nobody may adopt."""
    return (yield from _freeze(scene, 0.5))


def freeze_long(scene: Scene) -> Steps:
    """SIGSTOP for three times-to-live: the trials are adopted, and the zombie's writes are refused."""
    return (yield from _freeze(scene, 3.0))


def terminate(scene: Scene) -> Steps:
    """SIGTERM: the worker gives its trials back and leaves."""
    return (yield from _asked(scene, signal.SIGTERM))


def interrupt(scene: Scene) -> Steps:
    """SIGINT, as Ctrl-C sends."""
    return (yield from _asked(scene, signal.SIGINT))


NO_EFFECT = ""
"""The proof of a fault that met nothing: no packet came while all were held back. It is not counted."""


def cut(scene: Scene) -> Steps:
    """All connections to the database are reset, at any point of any transaction."""
    before = sum(w.gate.cuts for w in scene.pool.workers)
    for worker in scene.pool.workers:
        worker.gate.cut()
    yield 0.0
    cuts = sum(w.gate.cuts for w in scene.pool.workers) - before
    return f"{cuts} connections reset" if cuts else NO_EFFECT


def refuse(scene: Scene) -> Steps:
    """The database refuses connections for one time-to-live."""
    before = sum(w.gate.cuts for w in scene.pool.workers)
    for worker in scene.pool.workers:
        worker.gate.refuse()
    yield scene.ttl
    for worker in scene.pool.workers:
        worker.gate.open()
    return f"{sum(w.gate.cuts for w in scene.pool.workers) - before} connections reset, then refused"


def silence(scene: Scene) -> Steps:
    """The database does not answer for three times-to-live: no adoption may come of it."""
    return (yield from _stall(scene, scene.pool.workers, 3.0))


def partition(scene: Scene) -> Steps:
    """One worker loses the database for three times-to-live: one adoption a trial."""
    return (yield from _stall(scene, [scene.victim()], 3.0))


def partition_short(scene: Scene) -> Steps:
    """One worker loses the database for half a time-to-live."""
    return (yield from _stall(scene, [scene.victim()], 0.5))


def crash_server(scene: Scene) -> Steps:
    """The database server is ended at once and started again after one time-to-live."""
    pid = scene.server.crash()
    yield scene.ttl
    scene.server.start()
    return f"server process {pid} gone"


def fill_disk(scene: Scene) -> Steps:
    """No byte is free where the checkpoints lie, for one time-to-live."""
    if scene.disk is None:
        raise LookupError("no file system of its own could be mounted (needs root)")
    filler = scene.disk / "filler"
    written = 0
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                written += file.write(b"\0" * 65536)
        except OSError as error:
            proof = f"{written} bytes written, then: {error.strerror}"
    yield scene.ttl
    filler.unlink()
    return proof


def stop_now(scene: Scene) -> Steps:
    """`search stop --now` drains all workers; the wish is taken back when all have left."""
    yield from _wish(scene, "now")
    began = time.monotonic()
    for worker in scene.pool.workers:
        worker.back_at = began + 60
    while any(w.alive for w in scene.pool.workers) and time.monotonic() < began + 60:
        yield 0.1
    left = sum(w.alive for w in scene.pool.workers)
    for worker in scene.pool.workers:
        worker.back_at = 0.0
    yield from _wish(scene, None)
    return f"{left} workers still there" if left else f"all workers left within {time.monotonic() - began:.1f} s"


def _wish(scene: Scene, wish: str | None) -> Generator[float, None, None]:
    """Write a wish as soon as the database takes it: another fault may have it down just now."""
    while True:
        try:
            return scene.stop(wish)
        except sa.exc.OperationalError:
            yield 0.2


def kill_rank(scene: Scene) -> Steps:
    """kill -9 of one rank of a torchrun."""
    worker = scene.victim()
    pid = scene.draw.choice(worker.ranks() or [0])
    if pid == 0:
        raise LookupError("its ranks are not up")
    kill(pid, signal.SIGKILL)
    yield 0.0
    return f"rank {pid} of worker {worker.index}: state {state_of(pid) or 'gone'}"


def freeze_rank(scene: Scene) -> Steps:
    """SIGSTOP of one rank: its siblings must notice within the stall limit."""
    worker = scene.victim()
    pid = scene.draw.choice(worker.ranks() or [0])
    if pid == 0:
        raise LookupError("its ranks are not up")
    kill(pid, signal.SIGSTOP)
    time.sleep(0.05)
    proof = f"rank {pid} of worker {worker.index}: state {state_of(pid)}"
    deadline = time.monotonic() + 120
    while state_of(pid) == "T" and time.monotonic() < deadline:
        yield 0.2
    return proof


def _shot(worker: Worker) -> str:
    if worker.process is None:
        return f"worker {worker.index} was down"
    pid, ranks = worker.process.pid, worker.ranks()
    worker.process.kill()
    worker.process.wait()
    for rank in ranks:
        kill(rank, signal.SIGKILL)
    return f"worker {worker.index} (pid {pid}) ended with {worker.process.returncode}"


def _freeze(scene: Scene, share: float) -> Steps:
    worker = scene.victim()
    assert worker.process is not None  # noqa: S101 - a victim runs
    pid = worker.process.pid
    pids = [pid, *worker.ranks()]
    for each in pids:
        kill(each, signal.SIGSTOP)
    worker.frozen = True
    time.sleep(0.05)
    proof = f"worker {worker.index} (pid {pid}): state {state_of(pid)} for {share:g} times-to-live"
    yield share * scene.ttl
    for each in pids:
        kill(each, signal.SIGCONT)
    worker.frozen = False
    return proof


def _asked(scene: Scene, number: int) -> Steps:
    worker = scene.victim()
    process = worker.process
    assert process is not None  # noqa: S101 - a victim runs
    began = time.monotonic()
    os.kill(process.pid, number)
    while process.poll() is None and time.monotonic() - began < 30:
        yield 0.05
    return f"worker {worker.index} left with {process.poll()} after {time.monotonic() - began:.1f} s"


def _stall(scene: Scene, workers: list[Worker], share: float) -> Steps:
    before = sum(w.gate.held_back for w in workers)
    for worker in workers:
        worker.gate.stall()
    yield share * scene.ttl
    held = sum(w.gate.held_back for w in workers) - before
    for worker in workers:
        worker.gate.open()
    return f"{held} packets held back" if held else NO_EFFECT


FAULTS: dict[str, Callable[[Scene], Steps]] = {
    "kill -9": kill_one,
    "kill -9, nobody comes back": kill_one_for_long,
    "kill -9 of all": kill_all,
    "frozen 0.5 ttl": freeze_short,
    "frozen 3 ttl": freeze_long,
    "SIGTERM": terminate,
    "SIGINT": interrupt,
    "connections cut": cut,
    "database refuses 1 ttl": refuse,
    "database silent 3 ttl": silence,
    "one worker cut off 0.5 ttl": partition_short,
    "one worker cut off 3 ttl": partition,
    "server crash": crash_server,
    "disk full 1 ttl": fill_disk,
    "stop --now, taken back": stop_now,
}
"""What hits workers of any kind."""

RANK_FAULTS: dict[str, Callable[[Scene], Steps]] = {**FAULTS, "rank kill -9": kill_rank, "rank frozen": freeze_rank}
"""What hits torchruns."""
