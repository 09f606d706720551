"""`--log prometheus`: how this process spends its time and memory, as a text file for Prometheus.

node_exporter's textfile collector reads `FOLDER/prometheus`, and so does `python -m search metrics --workers`: a
process that trains opens no port for it. Each process has a file of its own, so that ranks, groups and workers of many
machines may share the folder.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from trainer.loggers.mirror import Mirror, Origin
from trainer.reports import EpochReport

LABELS = ("study", "host", "worker")
"""Of every figure: search or file, machine, and process id of the first rank."""
FAMILIES: Mapping[str, tuple[str, str, str | None]] = {
    "kd_worker_trials": ("gauge", "Trials that this worker trains now.", None),
    "kd_worker_epochs": ("counter", "Epochs of trials that this worker trained.", None),
    "kd_worker_seconds": ("counter", "Wall time of these epochs and between them, by part, over all trials.", "part"),
    "kd_worker_teacher_passes_per_step": ("gauge", "Teacher passes a student step, in the newest epoch.", None),
    "kd_worker_memory_bytes": ("gauge", "Memory of the worker's first rank.", None),
    "kd_worker_cpu_seconds": ("counter", "Time that cores spent on the worker's first rank.", None),
    "kd_worker_device_memory_bytes": (
        "gauge",
        "GPU memory of the first rank: reserved, or the most allocated.",
        "kind",
    ),
}
"""Name -> its kind, what it is, and its own label. Names of counters end in `_total` in the text."""
PARTS = ("data", "teacher", "student", "validation", "other", "checkpoint", "database", "idle")
"""Of the time of a trial's epoch; each begins at 0, so that a rate counts the first epoch, too."""
PREFIX = "kd-search."
"""How the names of these files begin."""
WRITE_SECONDS = 5.0
"""Between two writes: trials side by side end their epochs together, and the folder may be on a network."""
GONE_SECONDS = 600.0
"""A file that nobody wrote for so long is a dead process's."""


class PrometheusFile(Mirror):
    """`FOLDER/prometheus/kd-search.NAME.HOST.PID.prom`; it goes with its process.

    A process that is killed leaves its file behind. The next one that begins removes what is older than `GONE_SECONDS`
    by the clock of the folder's own disk.
    """

    def __init__(self, origin: Origin) -> None:
        self._client = import_module("prometheus_client")
        host, pid = socket.gethostname(), str(os.getpid())
        self._labels = (origin.name, host, pid)
        self._values: dict[str, dict[str, float]] = {name: {} for name in FAMILIES}
        self._values["kd_worker_epochs"][""] = 0.0
        self._values["kd_worker_seconds"] = dict.fromkeys(PARTS, 0.0)
        self._trials: set[str] = set()
        self._registry = self._client.CollectorRegistry()
        self._registry.register(self)
        folder = origin.folder / "prometheus"
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{PREFIX}{origin.name}.{host}.{pid}.prom"
        self._write_file()
        self._remove_dead()

    def begin(self, trial: str, epoch: int) -> None:  # noqa: ARG002 - as every kind of mirror
        """One trial more is trained here."""
        self._trials.add(trial)

    def write(self, trial: str, report: EpochReport) -> None:  # noqa: ARG002
        """Add an epoch to the sums; the file follows within `WRITE_SECONDS`, or at the next beat."""
        self._add("kd_worker_epochs", "", 1.0)
        for part, seconds in report.seconds.items():
            self._add("kd_worker_seconds", part, seconds)
        if report.passes is not None:
            self._values["kd_worker_teacher_passes_per_step"][""] = report.passes
        if time.monotonic() - self._written >= WRITE_SECONDS:
            self._write_file()

    def leave(self, trial: str) -> None:
        """One trial less is trained here."""
        self._trials.discard(trial)

    def beat(self) -> None:
        """Write the file, also where nothing is new: its age is that of the last sign of life."""
        self._write_file()

    def close(self) -> None:
        """The process ends, and so do its figures."""
        self._path.unlink(missing_ok=True)

    def collect(self) -> Iterator[Any]:
        """The families, as the client library asks for them."""
        families = import_module("prometheus_client.core")
        kinds = {"gauge": families.GaugeMetricFamily, "counter": families.CounterMetricFamily}
        for name, (kind, text, label) in FAMILIES.items():
            family = kinds[kind](name, text, labels=(*LABELS, *([label] if label else [])))
            for of, value in self._values[name].items():
                family.add_metric((*self._labels, *([of] if label else [])), value)
            yield family

    def _add(self, name: str, of: str, value: float) -> None:
        self._values[name][of] = self._values[name].get(of, 0.0) + value

    def _write_file(self) -> None:
        self._values["kd_worker_trials"][""] = float(len(self._trials))
        self._values["kd_worker_memory_bytes"][""] = _resident_bytes()
        self._values["kd_worker_cpu_seconds"][""] = time.process_time()
        self._values["kd_worker_device_memory_bytes"] = _device_bytes()
        self._client.write_to_textfile(str(self._path), self._registry)
        self._written = time.monotonic()

    def _remove_dead(self) -> None:
        newest = self._path.stat().st_mtime
        for file in self._path.parent.glob(f"{PREFIX}*.prom*"):  # with what a kill left half written
            try:
                if newest - file.stat().st_mtime > GONE_SECONDS:
                    file.unlink()
            except FileNotFoundError:  # another worker begins, too
                continue


def _resident_bytes() -> float:
    return float(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


def _device_bytes() -> dict[str, float]:
    """What torch holds for this process on all GPUs, now and at most; nothing where it uses none."""
    torch = sys.modules.get("torch")  # who trains has loaded it, and who simulates does without
    if torch is None or not torch.cuda.is_initialized():
        return {}
    devices = range(torch.cuda.device_count())
    return {
        "reserved": float(sum(map(torch.cuda.memory_reserved, devices))),
        "peak": float(sum(map(torch.cuda.max_memory_allocated, devices))),
    }
