"""What every data set offers to streams, scores and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.config import DataConfig, VolumeData

if TYPE_CHECKING:
    from trainer.data.masks import Regions

Part = Literal["train", "validation", "test"]
Pixels = NDArray[np.uint8]
Picture = NDArray[np.unsignedinteger[Any]]
"""(height, width, channels), 8 or 16 bits a channel."""


@dataclass(frozen=True)
class Sample:
    """One image with its mask."""

    name: str
    """`source/file`, unique in the data set."""
    source: str
    group: str
    """Patient or sequence; never in two parts."""
    image: str = ""
    """Its file below the data root; empty where there is none."""
    case: str = ""
    """What is scored as one: the volume that a slice is of, or the picture itself; empty: the picture itself."""
    spacing: tuple[float, float, float] | None = None
    """Of a slice: millimetres between slices, between rows and between columns; None where its file does not say it."""


class Placement(NamedTuple):
    """Where a native image of height x width lies in the size x size square that the network sees; pixels."""

    height: int
    width: int
    top: int
    left: int
    inner_height: int
    inner_width: int


@dataclass(frozen=True)
class Opening:
    """The right to read test rows, as it was written down: who asked, when (UTC, ISO 8601), for what."""

    who: str
    when: str
    purpose: str


def cases_of(samples: Sequence[Sample]) -> list[int] | None:
    """The number of each sample's case, from 0 in the order in which they come; None where each is one of its own."""
    numbers: dict[str, int] = {}
    cases = [numbers.setdefault(sample.case or sample.name, len(numbers)) for sample in samples]
    return None if len(numbers) == len(samples) else cases


def foreground_names(data: "DataSet") -> Sequence[str]:
    """The names of what scores are of: the classes without the ground, or the regions."""
    return data.class_names if data.regions else data.class_names[1:]


def by_threshold(classes: int, *, regions: bool) -> bool:
    """Whether a probability above a threshold says what a pixel is, as it does of two classes and of regions; else it
    is of its likeliest class."""
    return regions or classes == 2


def stacked(slices: Sequence[Pixels]) -> Pixels:
    """The masks of a case's pictures, (height, width) or (regions, height, width) each, as one: of one picture its own,
    slices are an axis before the height."""
    return slices[0] if len(slices) == 1 else np.stack(slices, axis=slices[0].ndim - 2)


def examples_an_epoch(data: "DataSet") -> int:
    """How many training examples an epoch of a data set has: pictures, or patches of volumes."""
    training = data.samples("train")
    if isinstance(data.config, VolumeData):
        return len({sample.case for sample in training}) * data.config.patches
    return len(training)


class DataSet(Protocol):
    """Images by part and index. Test rows need an opening record. Raises DataError where a file turns out bad."""

    config: DataConfig
    channels: int
    classes: int
    """What networks give an output for: at least 2 classes, and the labels of a mask are 0..classes-1; or regions, and
    `regions` says what the labels are. 255 is ignored."""
    class_names: Sequence[str]
    """Of the outputs in their order."""
    regions: "Regions | None"
    """Which regions, that overlap, each label is in; None where every pixel has one class."""
    content_hash: str
    """sha256 over every image, mask, part and group; places are not part of it."""
    near_duplicates: int
    """Pairs of near-identical pictures in two parts that the settings accept."""
    decoded: int
    """Pictures that this process decoded (or drew) so far; those found decoded on disk do not count."""

    def samples(self, part: Part, opening: Opening | None = None) -> Sequence[Sample]:
        """The samples of a part, in a fixed order."""

    def image_hashes(self, part: Part) -> Sequence[str]:
        """sha256 of each image file (or drawn picture) of a part, in the order of `samples`; hashes open nothing."""

    def sketches(self, part: Part) -> Sequence[bytes]:
        """The sketch (`trainer.data.perceptual_hash`) of each picture of a part, in the order of `samples`;
        opens nothing."""

    def fitted(self, part: Part, index: int, opening: Opening | None = None) -> tuple[Picture, Pixels]:
        """Image (size, size, channels) and mask (size, size) as the network sees them."""

    def native(self, part: Part, index: int, opening: Opening | None = None) -> tuple[Picture, Pixels]:
        """Image (height, width, channels) and mask (height, width) as shipped."""

    def native_mask(self, part: Part, index: int, opening: Opening | None = None) -> Pixels:
        """Mask (height, width) as shipped; cheap, for scores."""

    def placement(self, part: Part, index: int, opening: Opening | None = None) -> Placement:
        """How the fitted image came from the native one."""
