"""Drawn pictures with exact masks: no files, no downloads, the same on every machine.

One to three soft ellipses, more orange than the wavy ground they lie on, shaded as if lit from one side. Rings, dark
folds and white glints are drawn too and are not in the mask, so that neither brightness nor outline alone gives the
answer. About every tenth picture has no ellipse. Masks are exact; `loose` draws those of the training part too wide.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.config import BlobsData, DataConfig
from trainer.data.classes import TWO_CLASSES
from trainer.data.dataset import Opening, Part, Pixels, Placement, Sample
from trainer.data.file_check import Progress
from trainer.data.files import pixel_hash
from trainer.data.letterbox import fit_image, fit_mask, place
from trainer.data.openings import require_opening
from trainer.data.perceptual_hash import sketch
from trainer.data.splits.split import PARTS
from trainer.seeds import derive

STYLE = 1
"""Goes up with every change of how pictures look; part of the content hash."""
EMPTY_SHARE = 0.1

Field = NDArray[np.float32]


def open_blobs(config: BlobsData, *, cache: Path, progress: Progress | None = None) -> "Blobs":
    """The drawn data set. Nothing is kept on disk; pictures are drawn when first asked for and then stay in memory."""
    del cache, progress  # of data sets with files
    return Blobs(config)


def draw(seed: int, size: int, *, loose: float = 0.0) -> tuple[Pixels, Pixels]:
    """One picture (H, W, 3) RGB and its mask (H, W) of 0 and 1; H and W lie between size and 1.3 size.

    loose: by which share of their radii ellipses are wider in the mask than in the picture, which is drawn the same.
    """
    rng = np.random.default_rng(seed)
    height, width = (round(size * rng.uniform(1.0, 1.3)) for _ in range(2))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    canvas = _ground(rng, height, width)
    for _ in range(rng.integers(1, 4)):
        _fold(rng, canvas)
    for _ in range(rng.integers(0, 3)):
        edge = _distance(rng, rows, columns, smallest=0.08, largest=0.2)
        _blend(canvas, np.exp(-(((edge - 1) / 0.12) ** 2)) * 0.6, _tone(rng, (190, 96, 80)))
    mask = np.zeros((height, width), np.uint8)
    count = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, 4))
    for _ in range(count):
        mask |= _ellipse(rng, canvas, rows, columns, outline=1 + loose)
    for _ in range(rng.integers(0, 5)):
        glint = _distance(rng, rows, columns, smallest=0.01, largest=0.035)
        _blend(canvas, _soft(glint, 0.4), np.array([245, 240, 235], np.float32))
    canvas += rng.normal(0, rng.uniform(4, 9), canvas.shape).astype(np.float32)
    return np.clip(canvas, 0, 255).astype(np.uint8), mask


class Blobs:
    """The `DataSet` of drawn pictures."""

    channels = 3
    class_names: Sequence[str] = tuple(known.name for known in TWO_CLASSES)
    classes = len(class_names)
    regions = None
    near_duplicates = 0

    def __init__(self, config: BlobsData) -> None:
        self.config: DataConfig = config
        self._seed, self._loose = config.seed, config.loose
        self._size, self._padding = config.size, config.padding
        counts: dict[Part, int] = {"train": config.train, "validation": config.validation, "test": config.test}
        self._samples = {part: tuple(_sample(part, index) for index in range(count)) for part, count in counts.items()}
        drawn = f"{STYLE}\x1f{config.seed}\x1f{config.size}\x1f" + "\x1f".join(
            f"{part} {counts[part]}" for part in PARTS
        )
        if config.loose:  # exact masks keep the hash that they had before there were others
            drawn += f"\x1floose {config.loose}"
        self.content_hash = hashlib.sha256(f"blobs\x1f{drawn}".encode()).hexdigest()
        self._sketches: dict[Part, tuple[bytes, ...]] = {}
        self._native: dict[tuple[Part, int], tuple[Pixels, Pixels]] = {}
        self._fitted: dict[tuple[Part, int], tuple[Pixels, Pixels]] = {}
        self._drawing = threading.Lock()

    @property
    def decoded(self) -> int:
        """See `DataSet`."""
        return len(self._native)

    def samples(self, part: Part, opening: Opening | None = None) -> Sequence[Sample]:
        """See `DataSet`."""
        require_opening(part, opening)
        return self._samples[part]

    def image_hashes(self, part: Part) -> Sequence[str]:
        """See `DataSet`; draws the whole part."""
        return [pixel_hash(self._draw(part, index)[0]) for index in range(len(self._samples[part]))]

    def sketches(self, part: Part) -> Sequence[bytes]:
        """See `DataSet`; draws the whole part."""
        if part not in self._sketches:
            self._sketches[part] = tuple(sketch(self._draw(part, i)[0]) for i in range(len(self._samples[part])))
        return self._sketches[part]

    def fitted(self, part: Part, index: int, opening: Opening | None = None) -> tuple[Pixels, Pixels]:
        """See `DataSet`; read-only."""
        require_opening(part, opening)
        with self._drawing:
            known = self._fitted.get((part, index))
        if known is None:
            image, mask = self._draw(part, index)
            where = self._place(mask)
            size = self._size
            known = fit_image(image, where, size), fit_mask(mask, where, size, self._padding)
            _freeze(known)
            with self._drawing:
                self._fitted[part, index] = known
        return known

    def native(self, part: Part, index: int, opening: Opening | None = None) -> tuple[Pixels, Pixels]:
        """See `DataSet`; read-only."""
        require_opening(part, opening)
        return self._draw(part, index)

    def native_mask(self, part: Part, index: int, opening: Opening | None = None) -> Pixels:
        """See `DataSet`; read-only."""
        return self.native(part, index, opening)[1]

    def placement(self, part: Part, index: int, opening: Opening | None = None) -> Placement:
        """See `DataSet`."""
        return self._place(self.native_mask(part, index, opening))

    def _place(self, mask: Pixels) -> Placement:
        height, width = mask.shape
        return place(height, width, self.config.size, self.config.fit)

    def _draw(self, part: Part, index: int) -> tuple[Pixels, Pixels]:
        if not -len(self._samples[part]) <= index < len(self._samples[part]):
            raise IndexError(f"{part} has {len(self._samples[part])} pictures; asked for {index}")
        index %= len(self._samples[part])
        with self._drawing:
            known = self._native.get((part, index))
        if known is None:
            loose = self._loose if part == "train" else 0.0
            known = draw(derive(self._seed, "blobs", part, index), self.config.size, loose=loose)
            _freeze(known)
            with self._drawing:
                self._native[part, index] = known
        return known


def _sample(part: Part, index: int) -> Sample:
    name = f"blobs/{part}-{index:05d}"
    return Sample(name=name, source="blobs", group=name)


def _freeze(arrays: tuple[Pixels, Pixels]) -> None:
    for array in arrays:
        array.flags.writeable = False


def _waves(rng: np.random.Generator, height: int, width: int, cells: int) -> Field:
    """Smooth noise about 0, (height, width)."""
    grid = rng.normal(0, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def _tone(rng: np.random.Generator, colour: tuple[int, int, int]) -> Field:
    return np.array(colour, np.float32) + rng.normal(0, 6, 3).astype(np.float32)


def _ground(rng: np.random.Generator, height: int, width: int) -> Field:
    """Mucosa-like: a reddish tone with wide shadows and a fine grain."""
    ground = np.empty((height, width, 3), np.float32)
    ground[:] = _tone(rng, (168, 92, 78))
    shade = 20 * _waves(rng, height, width, 4) + 7 * _waves(rng, height, width, 14)
    return ground + shade[..., None] * np.array([1.0, 0.8, 0.7], np.float32)


def _fold(rng: np.random.Generator, canvas: Field) -> None:
    """A dark curve across the picture."""
    height, width = canvas.shape[:2]
    points = np.stack(
        [np.linspace(-0.1, 1.1, 6) * width, np.cumsum(rng.normal(0, 0.12, 6)) * height + rng.uniform(0, height)], axis=1
    )
    if rng.random() < 0.5:
        points = points[:, ::-1] * (width / height, height / width)
    line = np.zeros((height, width), np.float32)
    thick = max(1, round(0.04 * min(height, width)))
    cv2.polylines(
        line, [points.round().astype(np.int32)], isClosed=False, color=1.0, thickness=thick, lineType=cv2.LINE_AA
    )
    soft = cv2.GaussianBlur(line, (0, 0), 0.02 * min(height, width))
    canvas -= (rng.uniform(20, 45) * soft)[..., None]


def _distance(rng: np.random.Generator, rows: Field, columns: Field, *, smallest: float, largest: float) -> Field:
    """Distance of each pixel from a drawn centre, 1 on the rim of a drawn ellipse.

    Its radii are shares of the shorter side.
    """
    height, width = rows.shape
    radii = rng.uniform(smallest, largest, 2) * min(height, width)
    angle = rng.uniform(0, np.pi)
    down = rows - rng.uniform(0.1, 0.9) * height
    right = columns - rng.uniform(0.1, 0.9) * width
    along = (right * np.cos(angle) + down * np.sin(angle)) / radii[0]
    across = (down * np.cos(angle) - right * np.sin(angle)) / radii[1]
    distance: Field = np.hypot(along, across).astype(np.float32)
    return distance


def _soft(distance: Field, width: float) -> Field:
    """1 inside, 0 outside, one half on the edge."""
    share: Field = 1 / (1 + np.exp(np.clip((distance - 1) / (0.25 * width), -30, 30)))
    return share


def _blend(canvas: Field, share: Field, colour: Field) -> None:
    canvas += share[..., None] * (colour - canvas)


def _ellipse(rng: np.random.Generator, canvas: Field, rows: Field, columns: Field, *, outline: float) -> Pixels:
    """Draw one ellipse onto the canvas and return its mask, whose radii are `outline` times as long."""
    distance = _distance(rng, rows, columns, smallest=0.1, largest=0.26)
    height, width = rows.shape
    turn = rng.uniform(0, 2 * np.pi)
    light = (np.cos(turn) * columns / width + np.sin(turn) * rows / height).astype(np.float32)
    colour = _tone(rng, (218, 120, 66)) + (30 * (light - light.mean()) + 5 * _waves(rng, height, width, 10))[..., None]
    dome = 12 * np.clip(1 - distance, 0, 1)[..., None]
    _blend(canvas, _soft(distance, 0.3) * rng.uniform(0.8, 1.0), colour + dome)
    return (distance < outline).astype(np.uint8)
