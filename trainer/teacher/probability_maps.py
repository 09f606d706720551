"""Stored probability maps in the place of a teacher: its output on each plain picture, bent along with the picture.

A stream bends and mirrors image and mask alike; a map is a further plane of that, so a student sees the teacher's
output on the same tissue. Changes of colour leave the map as it is: the teacher saw the plain image. Maps are warped by
nearest pixels, once a view, and kept with the other stored logits.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.output import Output, Segmenter
from trainer.checkpoint import SHOWN
from trainer.data import augment
from trainer.data.dataset import DataSet, Part, Placement
from trainer.data.files import array_read
from trainer.data.volumes.nifti import SUFFIXES as VOLUME_SUFFIXES
from trainer.distributed.ranks import Ranks
from trainer.errors import CheckpointError
from trainer.seeds import derive

PARTS: tuple[Part, ...] = ("train", "validation")
SUFFIXES = (".png", ".npy")
ALL_SUFFIXES = (*SUFFIXES, *VOLUME_SUFFIXES)
"""Of pictures, and of volumes."""
STEP = 1e-6
"""The step of values that were not rounded to whole numbers."""

Floats = NDArray[np.float32]


class StoredMaps(Segmenter, ABC):
    """What another program said of the training and validation part, kept in files: read by index, never run."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.taps = {}

    def forward(self, images: Tensor) -> Output:  # noqa: ARG002 - the contract of a network
        """Raises RuntimeError: pixels do not say which image they are of."""
        raise RuntimeError("stored maps are asked by the index of the image")

    @abstractmethod
    def warped(self, seed: int, view: int, indices: Iterable[int]) -> Tensor:
        """Logits (n, classes, *S) float32 on the host of these training examples in one of their augmentations."""

    @abstractmethod
    def scored(self, part: Part, ranks: Ranks) -> Iterator[tuple[int, Tensor]]:
        """Index and logits (classes, height, width) float32, on the ranks' device, of each of this rank's images of
        train or validation at native size."""


class Maps(StoredMaps):
    """The foreground's probabilities of each training and validation image of a data set with two classes.

    It is read by index alone: `warped` for students, `native` for scores. What was rounded to 0 or 1 is taken half a
    step inside, so that its logit is finite. Raises CheckpointError where a map is missing or cannot be read.
    """

    def __init__(self, folder: Path, data: DataSet) -> None:
        super().__init__()
        self._data = data
        if data.classes != 2 or data.regions is not None:
            objects = f"{data.classes}" if data.regions is None else "regions"
            raise CheckpointError(
                f'teacher.name = "maps": tells two classes apart, and the data has {objects}; bring the network '
                'that made them (name = "onnx" or its weights)'
            )
        self._files = {
            part: map_files(folder, part, (sample.image or sample.name for sample in data.samples(part)), SUFFIXES)
            for part in PARTS
        }

    def warped(self, seed: int, view: int, indices: Iterable[int]) -> Tensor:
        """See `StoredMaps`; (n, 2, S, S)."""
        config = self._data.config
        change = augment.build_with_map(config.augment)
        rows = []
        for index in indices:
            image, mask = self._data.fitted("train", index)
            chances, step = self._read("train", index)
            placement = self._data.placement("train", index)
            plane = _fitted(_resized(chances, placement.inner_height, placement.inner_width), placement, config.size)
            bent = change(image, mask, plane, derive(seed, "augment", view, index))
            # What a warp brings in from outside is marked above 1; the mask ignores it.
            rows.append(logits(np.where(bent > 1, 0, bent).astype(np.float32), step))
        return torch.stack(rows)

    def scored(self, part: Part, ranks: Ranks) -> Iterator[tuple[int, Tensor]]:
        """See `StoredMaps`; the ranks take images in turn."""
        for index in range(ranks.rank, len(self._data.samples(part)), ranks.world):
            ranks.watchdog.beat()
            yield index, self.native(part, index).to(ranks.device)

    def native(self, part: Part, index: int) -> Tensor:
        """Logits (2, height, width) float32 of an image of train or validation at native size."""
        chances, step = self._read(part, index)
        placement = self._data.placement(part, index)
        return logits(_resized(chances, placement.height, placement.width), step)

    def _read(self, part: Part, index: int) -> tuple[Floats, float]:
        """Probabilities (h, w) as stored, and the step that they were rounded to."""
        return read(self._files[part][index])


def logits(chances: Floats, step: float) -> Tensor:
    """Probabilities (h, w) of the foreground to logits (2, h, w) whose softmax they are."""
    z = torch.from_numpy(chances).clamp(step / 2, 1 - step / 2).logit()
    return torch.stack([torch.zeros_like(z), z])


def map_files(folder: Path, part: Part, places: Iterable[str], suffixes: Sequence[str]) -> list[Path]:
    """The map of each place: below the folder, that of the image (its name where it has no file) with one of these
    suffixes.

    Raises CheckpointError that counts and names those that are missing.
    """
    files, missing = [], []
    for place in places:
        stem = place.removesuffix(".gz")
        stem = stem.removesuffix(Path(stem).suffix)
        there = [path for suffix in suffixes if (path := folder / f"{stem}{suffix}").is_file()]
        files += there[:1]
        missing += [] if there else [f"{stem}{suffixes[0]}"]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise CheckpointError(
            f"teacher.checkpoint = {str(folder)!r}: {len(missing)} {part} images have no map: "
            f"{', '.join(missing[:SHOWN])}{more}; write one for each ({' or '.join(suffixes)})"
        )
    return files


def read(path: Path) -> tuple[Floats, float]:
    """Probabilities (h, w) in [0, 1] and their step. Raises CheckpointError."""
    if path.suffix == ".npy":
        try:
            values = array_read(lambda: np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: no array of numbers, or cut short ({error})") from error
        if values.ndim != 2 or values.dtype.kind != "f" or not np.all((values >= 0) & (values <= 1)):
            raise CheckpointError(
                f"{path}: {values.dtype} {values.shape}; expected probabilities (height, width) from 0 to 1 as floats"
            )
        return values.astype(np.float32), STEP
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        kind = "unreadable" if pixels is None else f"{pixels.dtype} {pixels.shape}"
        raise CheckpointError(f"{path}: {kind}; expected a grey PNG of 8 or 16 bits")
    top = 255.0 if pixels.dtype == np.uint8 else 65535.0
    return (pixels / np.float32(top)).astype(np.float32), 1 / top


def maps_hash(folder: Path) -> str:
    """sha256 over the maps below a folder, by path. Raises CheckpointError where there is none."""
    files = sorted(path for path in folder.rglob("*") if path.name.endswith(ALL_SUFFIXES) and path.is_file())
    if not files:
        known = ", ".join(ALL_SUFFIXES)
        raise CheckpointError(f"teacher.checkpoint = {str(folder)!r}: no folder with maps ({known}) below it")
    lines = []
    for path in files:
        with path.open("rb") as file:
            lines.append(f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _resized(chances: Floats, height: int, width: int) -> Floats:
    if chances.shape == (height, width):
        return chances
    shrinks = height <= chances.shape[0] and width <= chances.shape[1]
    made = cv2.resize(chances, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(made, np.float32)


def _fitted(inner: Floats, placement: Placement, size: int) -> Floats:
    out = np.zeros((size, size), np.float32)
    rows = slice(placement.top, placement.top + placement.inner_height)
    out[rows, placement.left : placement.left + placement.inner_width] = inner
    return out
