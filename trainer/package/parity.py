"""Whether a package says what the trained weights say: the same pictures through both, whole, to masks."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.output import Segmenter
from trainer.data.dataset import Pixels
from trainer.data.letterbox import fit_image, place
from trainer.data.stream import normalise
from trainer.errors import UserError
from trainer.evaluation.metrics import native_logits
from trainer.package.inference import Packed, Preprocessing, labels

BOUND = 1e-3
"""Largest difference of a probability that is put down to rounding: sums of float32 in another order differ by about
1e-6 in a small network, more in a deep one."""


@dataclass(frozen=True)
class Parity:
    """What was compared, at native size."""

    images: int
    pixels: int
    differing_pixels: int
    """Pixels of the masks that differ; only those can whose probability is within `probability` of the threshold."""
    probability: float
    """Largest absolute difference of a class's probability."""
    bound: float
    where: str
    """Which pictures."""
    threads: int
    torch: str
    onnxruntime: str

    def facts(self) -> dict[str, object]:
        """As `parity.json` has it."""
        return asdict(self)


def compare(
    network: Segmenter, packed: Packed, pictures: Iterable[Pixels], *, where: str, threads: int, onnxruntime: str
) -> Parity:
    """Hold a package against a network on the CPU in float32.

    Raises UserError where no picture is given, or a probability differs by more than BOUND.
    """
    images = pixels = differing = 0
    largest = 0.0
    p = packed.preprocessing
    for picture in pictures:
        truth, packed_logits = _torch(network, picture, p), packed.logits([picture])[0]
        gap = float(np.abs(_probabilities(truth) - _probabilities(packed_logits)).max())
        # Compared so that a value that is no number is a difference, too.
        if not gap <= BOUND:
            raise UserError(
                f"picture {images + 1} of {where}: the ONNX file's probabilities differ from torch's by {gap:.3g}, "
                f"more than {BOUND:g}; no package was written: these versions of torch and onnxruntime disagree"
            )
        largest, images, pixels = max(largest, gap), images + 1, pixels + truth[0].size
        differing += int((labels(truth, p.threshold) != labels(packed_logits, p.threshold)).sum())
    if not images:
        raise UserError(f"{where}: no picture to compare the ONNX file on")
    return Parity(images, pixels, differing, largest, BOUND, where, threads, str(torch.__version__), onnxruntime)


def _torch(network: Segmenter, picture: Pixels, p: Preprocessing) -> NDArray[np.float32]:
    """Logits (classes, H, W) as `trainer predict` computes them."""
    at = place(picture.shape[0], picture.shape[1], p.size, p.fit)
    fitted = torch.from_numpy(np.stack([fit_image(picture, at, p.size)]))
    with torch.no_grad():
        logits = native_logits(network(normalise(fitted, network.normalisation)).logits.float(), at)[0]
    out: NDArray[np.float32] = logits.numpy()
    return out


def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax over the first axis."""
    powers = np.exp(logits.astype(np.float64) - logits.max(0))
    out: NDArray[np.float64] = powers / powers.sum(0)
    return out
