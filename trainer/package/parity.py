"""Whether a package says what the trained weights say: the same pictures through both, whole, to masks."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from models.output import Segmenter
from trainer.data.dataset import Picture
from trainer.data.letterbox import fit_image, place
from trainer.data.streams.batches import normalise
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
    probability_by_class: Mapping[str, float] = field(default_factory=dict)
    """The same of each class where there are more than two."""

    def facts(self) -> dict[str, object]:
        """As `parity.json` has it."""
        return {name: value for name, value in asdict(self).items() if value != {}}

    def sentence(self) -> str:
        """What came out, for the command."""
        return (
            f"onnxruntime differs from torch by at most {self.probability:.2g} in a probability (refused above "
            f"{self.bound:g}), in {self.differing_pixels} of {self.pixels:,} pixels of {self.images} {self.where}"
        )

    def described(self) -> str:
        """The same for the card."""
        return (
            f"Against torch {self.torch} with onnxruntime {self.onnxruntime} on {self.images} {self.where}: largest "
            f"difference of a probability {self.probability:.2g} (bound {self.bound:g}), {self.differing_pixels} of "
            f"{self.pixels:,} pixels differ."
        )


def compare(
    network: Segmenter, packed: Packed, pictures: Iterable[Picture], *, where: str, threads: int, onnxruntime: str
) -> Parity:
    """Hold a package against a network on the CPU in float32.

    Raises UserError where no picture is given, or a probability differs by more than BOUND.
    """
    images = pixels = differing = 0
    p = packed.preprocessing
    largest = np.zeros(len(p.classes))
    for picture in pictures:
        truth, packed_logits = _torch(network, picture, p), packed.logits([picture])[0]
        gaps = _gaps(truth, packed_logits, p)
        # Compared so that a value that is no number is a difference, too.
        if not gaps.max() <= BOUND:
            raise UserError(
                f"picture {images + 1} of {where}: the ONNX file's probabilities differ from torch's by "
                f"{gaps.max():.3g}, more than {BOUND:g}; no package was written: these versions of torch and "
                "onnxruntime disagree"
            )
        largest, images, pixels = np.maximum(largest, gaps), images + 1, pixels + truth[0].size
        ours, theirs = (labels(each, p.least, regions=p.regions) for each in (truth, packed_logits))
        differing += int((ours != theirs).sum()) if not p.regions else int((ours != theirs).any(0).sum())
    several = len(p.classes) > (1 if p.regions else 2)
    if not images:
        raise UserError(f"{where}: no picture to compare the ONNX file on")
    return Parity(
        images=images,
        pixels=pixels,
        differing_pixels=differing,
        probability=float(largest.max()),
        bound=BOUND,
        where=where,
        threads=threads,
        torch=str(torch.__version__),
        onnxruntime=onnxruntime,
        probability_by_class=dict(zip(p.classes, largest.tolist(), strict=True)) if several else {},
    )


def _gaps(ours: NDArray[np.float32], theirs: NDArray[np.float32], p: Preprocessing) -> NDArray[np.float64]:
    """The largest difference of each class's probability."""
    both = (probabilities(each, regions=p.regions) for each in (ours, theirs))
    gaps: NDArray[np.float64] = np.abs(next(both) - next(both)).max((1, 2))
    return gaps


def _torch(network: Segmenter, picture: Picture, p: Preprocessing) -> NDArray[np.float32]:
    """Logits (classes, H, W) as `trainer predict` computes them."""
    at = place(picture.shape[0], picture.shape[1], p.size, p.fit)
    fitted = torch.from_numpy(np.stack([fit_image(picture, at, p.size)]))
    with torch.no_grad():
        logits = native_logits(network(normalise(fitted, network.normalisation)).logits.float(), at)[0]
    out: NDArray[np.float32] = logits.numpy()
    return out


def probabilities(logits: NDArray[np.float32], *, regions: bool) -> NDArray[np.float64]:
    """Softmax over the first axis; of regions the sigmoid of each."""
    if regions:
        return expit(logits.astype(np.float64))  # type: ignore[no-any-return]  # scipy has no types
    powers = np.exp(logits.astype(np.float64) - logits.max(0))
    out: NDArray[np.float64] = powers / powers.sum(0)
    return out
