"""Whether a package for volumes says what the trained weights say: the same cases through both, from file to labels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.output import Segmenter
from trainer.config import VolumeData
from trainer.data.classes import ground
from trainer.data.dataset import Pixels
from trainer.data.volumes.case import PreparedCase
from trainer.data.volumes.geometry import Scores
from trainer.errors import UserError, counted
from trainer.evaluation.metrics import predictor
from trainer.evaluation.native_slices import native_slices, window_of
from trainer.package.inference import labels
from trainer.package.parity import BOUND, probabilities
from trainer.package.volumes import PackedVolumes, VolumePreprocessing


@dataclass(frozen=True)
class VolumeParity:
    """What was compared, on the grids of the cases' files."""

    cases: int
    voxels: int
    differing_voxels: int
    """Voxels whose label differs; of regions those that lie in others."""
    dice: float
    """The least Dice between the two segmentations, over the cases and their classes without the ground, or regions;
    1 where neither has the class."""
    dice_by_class: dict[str, float]
    """The least over the cases, by class."""
    probability: float
    """Largest absolute difference of a class's probability."""
    probability_by_class: dict[str, float]
    bound: float
    """Of `probability`."""
    regions: bool
    precision: str
    """What the package computes in."""
    threads: int
    torch: str
    onnxruntime: str

    def facts(self) -> dict[str, object]:
        """As `parity.json` has it."""
        return dict(vars(self))

    def sentence(self) -> str:
        """What came out, for the command."""
        return (
            f"onnxruntime and torch: Dice between their labels {self.dice:.6f} (the least of any case and "
            f"{'region' if self.regions else 'class'}), {self.differing_voxels:,} of {self.voxels:,} voxels changed, "
            f"at most {self.probability:.2g} in a probability (refused above {self.bound:g}), on "
            f"{counted(self.cases, 'validation case')}, {self.precision}"
        )

    def described(self) -> str:
        """The same for the card."""
        return (
            f"Against torch {self.torch} with onnxruntime {self.onnxruntime} in {self.precision}, on "
            f"{counted(self.cases, 'validation case')} from file to labels: Dice between both segmentations "
            f"{self.dice:.6f} (the least of any case and {'region' if self.regions else 'class'}), "
            f"{self.differing_voxels:,} of {self.voxels:,} voxels changed, largest difference of a probability "
            f"{self.probability:.2g} (bound {self.bound:g})."
        )


def compare_volumes(
    network: Segmenter,
    packed: PackedVolumes,
    config: VolumeData,
    cases: Iterable[tuple[PreparedCase, PreparedCase]],
    *,
    threads: int,
    onnxruntime: str,
) -> VolumeParity:
    """Hold a package against a network on the CPU in float32.

    cases: each as it was trained and validated, and as the package itself prepares it from its files. Raises UserError
    where no case is given, or a probability differs by more than BOUND.
    """
    p = packed.preprocessing
    count = voxels = differing = 0
    largest, least = np.zeros(len(p.classes)), np.ones(len(p.classes))
    for trained, prepared in cases:
        count += 1
        sizes = np.zeros((2, len(p.classes)))
        for ours, theirs in _slices(network, packed, config, trained, prepared):
            both = [probabilities(each, regions=p.regions) for each in (ours, theirs)]
            gaps = np.abs(both[0] - both[1]).max((1, 2))
            # Compared so that a value that is no number is a difference, too.
            if not gaps.max() <= BOUND:
                raise UserError(
                    f"validation case {trained.name}: the ONNX file's probabilities differ from torch's by "
                    f"{gaps.max():.3g}, more than {BOUND:g}; no package was written: these versions of torch and "
                    "onnxruntime disagree"
                )
            largest = np.maximum(largest, gaps)
            masks = [_by_class(labels(each, p.least, regions=p.regions), p) for each in (ours, theirs)]
            sizes += [(masks[0] & masks[1]).sum((1, 2)), (masks[0].sum((1, 2)) + masks[1].sum((1, 2))) / 2]
            voxels, differing = voxels + masks[0][0].size, differing + int((masks[0] != masks[1]).any(0).sum())
        least = np.minimum(least, np.where(sizes[1] > 0, sizes[0] / np.maximum(sizes[1], 1), 1.0))
    if not count:
        raise UserError("no validation case to compare the ONNX file on")
    foreground = slice(ground(p.regions), None)
    return VolumeParity(
        cases=count,
        voxels=voxels,
        differing_voxels=differing,
        dice=float(least[foreground].min()),
        dice_by_class=dict(zip(p.classes[foreground], least[foreground].tolist(), strict=True)),
        probability=float(largest.max()),
        probability_by_class=dict(zip(p.classes, largest.tolist(), strict=True)),
        bound=BOUND,
        regions=p.regions,
        precision="float32",
        threads=threads,
        torch=str(torch.__version__),
        onnxruntime=onnxruntime,
    )


def _slices(
    network: Segmenter, packed: PackedVolumes, config: VolumeData, trained: PreparedCase, prepared: PreparedCase
) -> Iterator[tuple[Scores, Scores]]:
    """The logits (classes, A, B) of torch and of the package, slice by slice. Raises RuntimeError where the two go
    different ways through a case."""
    cpu = torch.device("cpu")
    predict = predictor(network, cpu, "fp32")
    image = trained.normaliser.of_case(trained.image)
    below = ground(packed.preprocessing.regions)
    with torch.no_grad():
        ours = native_slices(image, trained.way, window_of(config), predict, cpu, ground=below)
        for (depth, logits), (number, other) in zip(ours, packed.slices(prepared), strict=True):
            if depth != number:
                raise RuntimeError(f"{trained.name}: torch is at slice {depth}, the package at {number}")
            yield logits.numpy(), other


def _by_class(mask: Pixels, p: VolumePreprocessing) -> NDArray[np.bool_]:
    """Labels (A, B), or the masks of regions, as a mask (A, B) each."""
    inside: NDArray[np.bool_] = mask == 1 if p.regions else mask == np.arange(len(p.classes))[:, None, None]
    return inside
