"""A network in int8, float16 or bfloat16 in the place of float32, and what that costs: bytes, seconds and Dice.

int8 is onnxruntime's static quantisation: weights and activations are rounded to 8 bits by ranges that were seen on
training cases. float16 halves the file; where an engine has no float16 arithmetic, as onnxruntime on CPUs, it computes
in float32 between casts. bfloat16 is a way to compute of OpenVINO: the file is the one in float32.
"""

import logging
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.data.dataset import Pixels
from trainer.data.masks import Regions
from trainer.errors import UserError, counted, one_line
from trainer.evaluation.confusion import confusion, region_confusion
from trainer.evaluation.metrics import score
from trainer.package.onnx_runtime import INPUT, Floats, Network, Session, need
from trainer.package.openvino_runtime import BFloat16Session
from trainer.package.precision import LowPrecision

INPUTS = 64
"""Inputs of the network at most that ranges are taken from."""
ROUNDS, MOST_ROUNDS = 9, 300
TIMED = 1.0
"""Seconds that timings in turn take, within these bounds; the best of each network counts."""
FASTER, MOSTLY = 0.95, 0.5
"""The share of the time below which a network is called faster, and in what share of the rounds it has to be."""
CONFIDENCE = 0.95
RESAMPLED = 2000


@dataclass(frozen=True)
class Lowered:
    """A network of lower precision beside the one in float32."""

    precision: LowPrecision
    unit: Literal["image", "case"]
    cases: int
    """Validation images or cases."""
    dice_float32: float
    dice: float
    lost: float
    """The mean over them of the Dice in float32 less that of what is shipped."""
    interval: tuple[float, float] | None
    """Of `lost`, by a bootstrap over them; None where there is one."""
    margin: float
    changed: int
    """Pixels or voxels whose label differs, of regions those that lie in others."""
    total: int
    bytes_float32: int
    bytes: int
    seconds_float32: float
    """Of one input of the network on one thread."""
    seconds: float
    faster_rounds: float
    """Share of the timings in turn in which it took less time than the one in float32 beside it."""
    calibrated_on: int
    """Inputs of training cases; 0 of float16, which needs none."""
    onnxruntime: str
    openvino: str | None = None
    """The version of what computes bfloat16; None: onnxruntime computes."""

    @property
    def faster(self) -> bool:
        """Whether it takes less time than in float32, by more than timings vary on a machine that has other work."""
        return self.seconds < FASTER * self.seconds_float32 and self.faster_rounds >= MOSTLY

    def facts(self) -> dict[str, object]:
        """As `parity.json` has it."""
        return {**asdict(self), "faster": self.faster}

    def sentence(self) -> str:
        """What came out, for the command."""
        return f"{self.precision}: {self._size()}; {self._loss()}"

    def described(self) -> str:
        """The same for the card."""
        ranges = f", ranges from {self.calibrated_on} inputs of training {self.unit}s" if self.calibrated_on else ""
        return (
            f"Shipped in {self.precision}{ranges} ({self._engine()}): {self._size()}. {self._loss()}. "
            "What is said of float32 below is of the network that it was made from."
        )

    def _engine(self) -> str:
        return f"onnxruntime {self.onnxruntime}" if self.openvino is None else f"OpenVINO {self.openvino}"

    def _size(self) -> str:
        if self.openvino is not None:
            times = f"{1e3 * self.seconds:.3g} ms in place of {1e3 * self.seconds_float32:.3g} of onnxruntime"
            verdict = "faster" if self.faster else "not faster"
            return f"{times} an input on one thread: {verdict}, with less in {self.faster_rounds:.0%} of the turns"
        small = f"{self.bytes / 1e6:.3g} MB in place of {self.bytes_float32 / 1e6:.3g}"
        times = f"{1e3 * self.seconds:.3g} ms in place of {1e3 * self.seconds_float32:.3g}"
        verdict = "smaller and faster" if self.faster else "smaller, not faster"
        return f"{small}, {times} an input on one thread: {verdict}"

    def _loss(self) -> str:
        share = (
            "" if self.interval is None else f" ({CONFIDENCE:.0%}: {self.interval[0]:.4f} to {self.interval[1]:.4f})"
        )
        things, of = ("voxels" if self.unit == "case" else "pixels"), counted(self.cases, f"validation {self.unit}")
        lost = round(self.lost, 4) + 0.0  # no -0
        return (
            f"Dice {self.dice:.4f} in place of {self.dice_float32:.4f} on {of}: {lost:.4f} lost{share}, refused above "
            f"{self.margin:g}; {self.changed:,} of {self.total:,} {things} changed"
        )


class Recorder:
    """A network that keeps every n-th of its inputs, INPUTS at most."""

    def __init__(self, network: Network, every: int = 1) -> None:
        self._network, self._every = network, max(every, 1)
        self._seen = 0
        self.inputs: list[Floats] = []

    def __call__(self, images: Floats) -> Floats:
        """The network's answer."""
        for image in images:
            if self._seen % self._every == 0 and len(self.inputs) < INPUTS:
                self.inputs.append(image[None].copy())
            self._seen += 1
        return self._network(images)


def lower(source: Path, target: Path, precision: LowPrecision, inputs: Sequence[Floats]) -> Session | BFloat16Session:
    """Write a network file in a lower precision, and load it with one thread. Raises UserError where onnxruntime cannot
    make or load it, or the processor has no bfloat16."""
    if precision == "bf16":
        shutil.copyfile(source, target)
        network = BFloat16Session(target, threads=1)
        if not network.capable:
            raise UserError("--precision bf16: this processor has no bfloat16; leave --precision out")
        return network
    with _silent():
        try:
            if precision == "int8":
                _quantised(source, target, inputs)
            else:
                _halved(source, target)
        except Exception as error:
            # Its tools raise whatever their graphs lead to.
            raise UserError(f"--precision {precision}: cannot be made of this network ({_why(error)})") from error
    try:
        return Session(target, threads=1)
    except UserError as error:
        reason = str(error).partition(": onnxruntime cannot load it: ")[2].rpartition("Error: ")[2] or str(error)
        raise UserError(
            f"--precision {precision}: onnxruntime cannot load this network in it ({one_line(reason)[:160]}); no "
            "package was written; leave --precision out"
        ) from error


def _quantised(source: Path, target: Path, inputs: Sequence[Floats]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        """The inputs one by one, as the quantiser asks for them."""

        def __init__(self) -> None:
            self._inputs = iter(inputs)

        def get_next(self) -> dict[str, Floats] | None:
            """The next, None after the last."""
            return next(({INPUT: each} for each in self._inputs), None)

    quantize_static(str(source), str(target), Reader(), quant_format=QuantFormat.QDQ)


def _halved(source: Path, target: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    (onnx,) = need("onnx")
    model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=False)
    onnx.save(model, str(target))


@contextmanager
def _silent() -> Iterator[None]:
    """Inside, onnxruntime's tools say nothing of how their graphs might be prepared, and of numbers that they round."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)[:160]}"


class Judged:
    """Labels of the same images or cases by both networks, held against the truth."""

    def __init__(self, classes: int, regions: Regions | None) -> None:
        self._classes, self._regions = classes, regions
        self._counts: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = ([], [])
        self.changed = self.total = 0

    def begin(self) -> None:
        """A new image or case."""
        for counts in self._counts:
            counts.append(np.zeros((self._classes, 4)))

    def add(self, float32: Pixels, lower: Pixels, truth: Pixels) -> None:
        """Labels (A, B), of regions masks (regions, A, B), of an image or slice, and its true labels (A, B)."""
        differ = float32 != lower
        self.changed += int((differ if differ.ndim == 2 else differ.any(0)).sum())
        self.total += truth.size
        for counts, predicted in zip(self._counts, (float32, lower), strict=True):
            counts[-1] += self._confusion(predicted, truth)

    def _confusion(self, predicted: Pixels, truth: Pixels) -> NDArray[np.float64]:
        mask, known = torch.from_numpy(predicted[None]), torch.from_numpy(np.array(truth)[None])
        if self._regions is None:
            return confusion(mask, known, self._classes)[0].double().numpy()
        return region_confusion(mask, self._regions.targets(known))[0].double().numpy()

    def dice(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """By image or case, in float32 and in the lower precision."""
        regions = self._regions is not None
        float32, lower = (score(np.stack(counts), regions=regions).images["dice"] for counts in self._counts)
        return float32, lower


def interval_of(differences: NDArray[np.float64]) -> tuple[float, float] | None:
    """Of their mean: percentiles of a bootstrap over them; None for one. The draws are always the same."""
    count = len(differences)
    if count < 2:
        return None
    draws = np.random.default_rng(0).integers(count, size=(RESAMPLED, count))
    low, high = np.quantile(differences[draws].mean(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def timed(networks: Sequence[Network], example: Floats) -> NDArray[np.float64]:
    """Seconds for one input, taken in turn after a first pass: (rounds, networks)."""
    rounds: list[list[float]] = []
    spent = 0.0
    for network in networks:
        network(example)
    while len(rounds) < ROUNDS or (spent < TIMED and len(rounds) < MOST_ROUNDS):
        taken = []
        for network in networks:
            begin = time.perf_counter()
            network(example)
            taken.append(time.perf_counter() - begin)
        spent += sum(taken)
        rounds.append(taken)
    return np.array(rounds)


def weighed(
    precision: LowPrecision,
    unit: Literal["image", "case"],
    judged: Judged,
    files: Sequence[Path],
    networks: tuple[Session, Session | BFloat16Session],
    inputs: Sequence[Floats],
    margin: float,
) -> Lowered:
    """All that is known of a network of lower precision. files, networks: in float32, and in the lower one. Raises
    UserError where it loses more Dice than the margin."""
    float32, lower = judged.dice()
    seconds = timed(networks, inputs[0])
    before, after = (float(best) for best in seconds.min(0))
    lowered = Lowered(
        precision=precision,
        unit=unit,
        cases=len(lower),
        dice_float32=float(float32.mean()),
        dice=float(lower.mean()),
        lost=float((float32 - lower).mean()),
        interval=interval_of(float32 - lower),
        margin=margin,
        changed=judged.changed,
        total=judged.total,
        bytes_float32=files[0].stat().st_size,
        bytes=files[1].stat().st_size,
        seconds_float32=before,
        seconds=after,
        faster_rounds=float((seconds[:, 1] < FASTER * seconds[:, 0]).mean()),
        calibrated_on=len(inputs) if precision == "int8" else 0,
        onnxruntime=networks[0].version,
        openvino=networks[1].version if isinstance(networks[1], BFloat16Session) else None,
    )
    # Compared so that a value that is no number is a loss, too.
    if not lowered.lost <= margin:
        raise UserError(
            f"--precision {precision}: loses {lowered.lost:.4f} Dice, more than --margin {margin:g} "
            f"({lowered.sentence()}); no package was written; ship fp32, or allow more"
        )
    if precision == "bf16" and not lowered.faster:
        raise UserError(
            f"--precision bf16: brings nothing here ({lowered.sentence()}); no package was written; ship fp32"
        )
    return lowered
