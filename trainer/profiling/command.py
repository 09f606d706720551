"""`python -m trainer profile`: time and peak memory of one pass of a network, with the machine that it ran on."""

import argparse
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from trainer.atomic_files import writable
from trainer.cli.numbers import MOST_SECONDS, real, whole
from trainer.config import RunConfig, VolumeData
from trainer.distributed.launch import device as checked_device
from trainer.errors import UserError
from trainer.package.inference import NETWORK, RUN, WEIGHTS, check_sums
from trainer.package.opened import preprocessing_of
from trainer.profiling.latency_table import Row, extend, options_of

if TYPE_CHECKING:
    from models.output import Segmenter
    from trainer.package.onnx_runtime import Floats
import ctypes
import os
import platform
import resource
from collections.abc import Iterator
from contextlib import suppress

WARM = 5
"""Passes at least that are not timed; as many as a tenth of the time takes."""
LEAST = 30
"""Timed passes at least."""
SEED = 1
OF_VOLUMES = "is a network for volumes, and networks for pictures alone are profiled so far"


@dataclass(frozen=True)
class Way:
    """How is measured."""

    batch: int
    threads: int
    device: str
    seconds: float


@dataclass(frozen=True)
class Target:
    """What is measured: a network by what a table calls it, and where it comes from."""

    network: str
    options: str
    size: int
    runtime: str
    run: RunConfig | None = None
    """torch: the network is built from it, with weights drawn at random where there is no file."""
    file: Path | None = None


def add_measuring(command: argparse.ArgumentParser) -> None:
    """The flags that say how is measured."""
    command.add_argument(
        "--batch", type=whole(1), default=1, metavar="N", help="pictures at once (default: %(default)s)"
    )
    command.add_argument(
        "--threads", type=whole(1), metavar="N", help="threads of one pass (default: the cores of this process)"
    )
    command.add_argument("--device", help="cpu or cuda (default: cpu)")
    command.add_argument(
        "--seconds",
        type=real(0, MOST_SECONDS, above=True),
        default=3.0,
        metavar="S",
        help="passes are timed for so many seconds at least (default: %(default)s)",
    )
    command.add_argument("-o", "--output", type=Path, metavar="TABLE", help="CSV to write, or to add rows to")


def main(args: Namespace) -> int:
    """Measure, say it, and add it to the table. Raises UserError, CheckpointError."""
    way = way_of(args)
    writable(args.output)
    row = measure(_target(args), way)
    print(describe(row))
    print(machine(row))
    if args.output is not None:
        extend(args.output, [row])
        print(f"{args.output}  1 row")
    return 0


def way_of(args: Namespace) -> Way:
    """The words of `add_measuring`."""
    return Way(args.batch, args.threads or cores(), args.device or "cpu", args.seconds)


def measure(target: Target, way: Way) -> Row:
    """Time passes over a fixed random picture, in a process of their own. Raises UserError, CheckpointError."""
    if target.runtime == "torch":
        return _apart(_torch, target, way)
    if target.file is not None and target.file.suffix == ".onnx":
        return _apart(_onnxruntime, target, way)
    with TemporaryDirectory(prefix="profile-") as folder:
        made = _exported(target, Path(folder) / NETWORK)
        return _apart(_onnxruntime, replace(target, file=made), way)


def _apart(passes: Callable[[Target, Way], Row], target: Target, way: Way) -> Row:
    """Call a function in a fresh process: memory that this one once took and gave back would hide what passes take."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=signal, initargs=(SIGINT, SIG_IGN)) as pool:
        try:
            return pool.submit(passes, target, way).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{target.network} {target.options}: the process that measured was ended; perhaps by lack of memory"
            ) from error


def describe(row: Row) -> str:
    """A measurement in one line."""
    return (
        f"{row.network} {row.options} at {row.size} x {row.size}, {row.batch} at once, {row.runtime} on {row.device}: "
        f"median {row.median_ms:.3g} ms, p95 {row.p95_ms:.3g} ms, {row.images_per_second:.4g} pictures a second, "
        f"{row.peak_mb:.0f} MB, {row.passes} passes"
    )


def machine(row: Row) -> str:
    """Where it was measured, in one line."""
    return f"{row.processor} ({row.flags}), {row.threads} threads of {row.cores} cores, {row.versions}, {row.measured}"


def _target(args: Namespace) -> Target:
    """What a path names: a package, an ONNX file, weights, a study or a run."""
    from trainer.run_file import read

    path: Path = args.file
    if path.is_dir():
        check_sums(path)
        if preprocessing_of(path).computes is not None:
            raise UserError(f"{path}: computes in OpenVINO, which is not timed here; its parity.json has its time")
        run = read(path / RUN).run
        chosen = args.runtime or "onnxruntime"
        return _of(run, chosen, path / (NETWORK if chosen == "onnxruntime" else WEIGHTS), args.size)
    if path.suffix == ".onnx":
        if args.runtime == "torch":
            raise UserError(f"--runtime torch: {path} is an ONNX file; give the weights")
        if (path.parent / RUN).is_file():
            return _of(read(path.parent / RUN).run, "onnxruntime", path, args.size)
        return Target(path.stem, "", args.size or 0, "onnxruntime", file=path)
    if path.suffix == ".safetensors":
        import torch

        from trainer.checkpoint import ready

        return _of(ready(path, device=torch.device("cpu")).run, args.runtime or "torch", path, args.size)
    return _of(read(path).run, args.runtime or "torch", None, args.size)


def target(run: RunConfig, runtime: str) -> Target:
    """The student of a run with weights drawn at random, on which no time depends."""
    return _of(run, runtime, None, None)


def _of(run: RunConfig, runtime: str, file: Path | None, size: int | None) -> Target:
    if isinstance(run.data, VolumeData):
        raise UserError(f"run.student.name = {run.student.name!r}: {OF_VOLUMES}")
    return Target(run.student.name, options_of(run.student), size or run.data.size, runtime, run, file)


def _exported(target: Target, path: Path) -> Path:
    from trainer.data.classes import channels_of
    from trainer.package.onnx_export import export

    network, run = _network(target), target.run
    export(network, path, channels=channels_of(run.data) if run else 3, size=target.size)
    return path


def _network(target: Target) -> "Segmenter":
    """In evaluation mode, on the CPU."""
    import torch

    import models
    from trainer.checkpoint import ready
    from trainer.data.classes import channels_of, classes_of

    if target.file is not None:
        return ready(target.file, device=torch.device("cpu")).network
    if target.run is None:
        raise UserError(f"{target.network}: give weights, a run or an ONNX file")
    data = target.run.data
    with torch.random.fork_rng(devices=[]):
        # Nothing is fetched for an encoder whose weights do not matter.
        bare = target.run.student.model_copy(update={"checkpoint": "unused"})
        torch.manual_seed(SEED)
        try:
            network = models.build(
                bare, in_channels=channels_of(data), classes=len(classes_of(data)), size=target.size or None
            )
        except ValueError as error:
            raise UserError(f"run.{error}") from error
    if target.size % network.stride:
        raise UserError(f"--size {target.size}: {target.network} takes multiples of {network.stride}")
    return network.requires_grad_(False).eval()


def _onnxruntime(target: Target, way: Way) -> Row:
    from trainer.package.onnx_runtime import Session

    path = target.file or Path(NETWORK)
    Session.runtime()  # its own code is no memory of the network's
    peak = Peak()
    session = Session(path, device=way.device, threads=way.threads)
    if len(session.shape) != 3:
        raise UserError(f"{path}: {OF_VOLUMES}")
    channels, size, _ = session.shape
    if target.size not in (0, size):
        raise UserError(f"--size {target.size}: {path} takes {size} x {size}; leave it out")
    images = _images(way.batch, channels, size)
    times = _timed(lambda: session(images), way.seconds)
    versions = f"onnxruntime {session.version} {session.provider}"
    return _row(target, way, size, times, peak.megabytes(), versions, session.threads)


def _torch(target: Target, way: Way) -> Row:
    import torch

    import models  # noqa: F401 - what is imported before the peak is no memory of the network's
    from trainer.checkpoint import ready  # noqa: F401 - as above

    where = torch.device(checked_device(way.device) or "cpu")
    torch.set_num_threads(way.threads)
    peak = Peak(where.type)
    network = _network(target).to(where)
    images = torch.from_numpy(_images(way.batch, 3, target.size)).to(where, memory_format=torch.channels_last)

    def once() -> None:
        with torch.no_grad():
            network(images)
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    times = _timed(once, way.seconds)
    megabytes = peak.megabytes()
    name = f" {torch.cuda.get_device_name(where)}" if where.type == "cuda" else ""
    return _row(target, way, target.size, times, megabytes, f"torch {torch.__version__}{name}", way.threads)


def _images(batch: int, channels: int, size: int) -> "Floats":
    return np.random.default_rng(SEED).standard_normal((batch, channels, size, size), dtype=np.float32)


def _timed(once: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of single passes, after those that warm up."""
    began, warm = time.perf_counter(), 0
    while warm < WARM or time.perf_counter() - began < seconds / 10:
        once()
        warm += 1
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < LEAST or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    return times


def _row(target: Target, way: Way, size: int, times: list[float], megabytes: float, versions: str, threads: int) -> Row:
    median, p95 = (float(np.quantile(times, share)) * 1e3 for share in (0.5, 0.95))
    return Row(
        network=target.network,
        options=target.options,
        size=size,
        batch=way.batch,
        device=way.device,
        runtime=target.runtime,
        threads=threads,
        median_ms=round(median, 4),
        p95_ms=round(p95, 4),
        images_per_second=round(way.batch * len(times) / sum(times), 2),
        peak_mb=round(megabytes, 1),
        passes=len(times),
        processor=processor(),
        flags=" ".join(flags()),
        cores=cores(),
        versions=versions,
        measured=datetime.now(UTC).date().isoformat(),
    )


TELLING = ("avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "asimd", "asimddp", "sve", "neon")
"""The processor flags that decide how fast it multiplies."""
_MODEL = ("model name", "Model", "Hardware")


def processor() -> str:
    """The processor's name as Linux has it, else what Python knows."""
    facts = dict(_lines())
    return next((facts[key] for key in _MODEL if key in facts), platform.processor() or platform.machine())


def flags() -> list[str]:
    """The processor's flags that are in TELLING, in its order."""
    facts = dict(_lines())
    own = (facts.get("flags") or facts.get("Features") or "").split()
    return [flag for flag in TELLING if flag in own]


def cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _lines() -> Iterator[tuple[str, str]]:
    """Keys and values of the last core that Linux lists."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            yield key.strip(), value.strip()


class Peak:
    """Measures from its making on. device: cpu or cuda."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return
        # What was freed before would hide what is taken now: it is given back first, where the C library can.
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        # Linux forgets its high-water mark when asked; else the highest of the process counts.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _kilobytes("VmRSS:") * 1024

    def megabytes(self) -> float:
        """MB (10^6 bytes) at the peak so far."""
        if self._device == "cuda":
            import torch

            return (torch.cuda.max_memory_allocated() - self._before) / 1e6
        return max(0.0, (_kilobytes("VmHWM:") * 1024 - self._before) / 1e6)


def _kilobytes(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
