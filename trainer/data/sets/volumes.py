"""Volumes with labels that a split file lists: prepared once into the cache, trained by patches, scored by slices.

A case is a row of the split file. It is trained as patches of the prepared grid, and scored on the grid of its own
files, where each slice along the last axis is a `Sample` and all slices of a case are scored as one.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from loguru import logger

from trainer.config import DataConfig, VolumeData
from trainer.data.classes import channels_of, classes_of
from trainer.data.dataset import Opening, Part, Picture, Pixels, Placement, Sample
from trainer.data.file_check import Progress
from trainer.data.masks import regions_of
from trainer.data.openings import require_opening
from trainer.data.perceptual_hash import sketch
from trainer.data.sets.pictures import split_file
from trainer.data.splits.split import PARTS, Row, data_root, read_split, samples
from trainer.data.volumes.case import PreparedCase
from trainer.data.volumes.nifti import read_image
from trainer.data.volumes.prepare import CaseFiles, case_files, coding_for, prepare_cases
from trainer.data.volumes.recipes import recipe_of
from trainer.errors import DataError, counted


def open_volumes(config: VolumeData, *, cache: Path, progress: Progress | None = None) -> "VolumeCases":
    """Read the split file, hash every file it names, and prepare what is not in the cache. Raises DataError.

    Test cases are hashed here; they are prepared when they are opened. One file in two parts is refused.
    """
    root = data_root(config)
    rows = read_split(split_file(config), root)
    return VolumeCases(config, root, rows, cache, progress)


class VolumeCases:
    """The `DataSet` of some rows, as a split file has them, below a root."""

    def __init__(
        self, config: VolumeData, root: Path, rows: Sequence[Row], cache: Path, progress: Progress | None = None
    ) -> None:
        self.config: DataConfig = config
        self.settings = config
        self.cache, self._root = cache, root
        self.channels = channels_of(config)
        self.classes = len(classes_of(config))
        self.regions = regions_of(config)
        self.class_names: Sequence[str] = tuple(known.name for known in classes_of(config))
        self.near_duplicates = 0
        self.decoded = 0
        named = list(zip(samples(rows), rows, strict=True))
        self._named: dict[Part, list[tuple[Sample, Row]]] = {
            part: sorted((pair for pair in named if pair[1].part == part), key=lambda pair: pair[0].name)
            for part in PARTS
        }
        self._files: dict[Part, list[CaseFiles]] = {
            part: case_files([self._paths(sample, row) for sample, row in self._named[part]], config.channels)
            for part in PARTS
        }
        self._refuse_leaks()
        self.content_hash = _content(config, self._named, self._files)
        self._prepared: dict[Part, list[PreparedCase]] = {}
        for part in ("train", "validation"):
            self._prepared[part] = self._prepare(part, progress)
        _say_small(self._prepared["train"], config)

    def samples(self, part: Part, opening: Opening | None = None) -> Sequence[Sample]:
        """See `DataSet`: the slices of each case along the last axis of its files, in their order."""
        require_opening(part, opening)
        if part == "test":
            return self._test_samples
        return self._slices[part]

    def image_hashes(self, part: Part) -> Sequence[str]:
        """See `DataSet`; one a case."""
        return ["+".join(files.digests[:-1]) for files in self._files[part]]

    def sketches(self, part: Part) -> Sequence[bytes]:
        """See `DataSet`; one a case: its three middle planes side by side."""
        return [sketch(_middle_planes(case)) for case in self.cases(part, None, sketch=True)]

    def cases(self, part: Part, opening: Opening | None = None, *, sketch: bool = False) -> Sequence[PreparedCase]:
        """The prepared cases of a part, in the order of their slices. sketch: to be compared, not to be looked at."""
        if not sketch:
            require_opening(part, opening)
        return self._test if part == "test" else self._prepared[part]

    def fitted(self, part: Part, index: int, opening: Opening | None = None) -> tuple[Picture, Pixels]:
        """See `DataSet`. A volume is never fitted to a square: raises DataError."""
        require_opening(part, opening)
        raise DataError(f"{self.config.name}: a volume is trained by patches and has no fitted picture {part} {index}")

    def native(self, part: Part, index: int, opening: Opening | None = None) -> tuple[Picture, Pixels]:
        """See `DataSet`: a slice as stored, 8 bits a channel between the window's ends, or the 0.5th and 99.5th
        percentile of the volume."""
        require_opening(part, opening)
        number, depth = self._place(part, index)
        return self.volume(part, number, opening)[:, :, depth], self.native_mask(part, index, opening)

    def volume(self, part: Part, number: int, opening: Opening | None = None) -> Picture:
        """(A, B, slices, C) of a case as stored, 8 bits a channel between the same ends."""
        require_opening(part, opening)
        return _shown(self._files[part][number].images, self.settings)

    def image_files(self, part: Part, number: int, opening: Opening | None = None) -> tuple[Path, ...]:
        """The files of a case's image: one, or one a channel."""
        require_opening(part, opening)
        return self._files[part][number].images

    def case_place(self, part: Part, number: int) -> str:
        """The place of a case's image below the data root, as the split file has it."""
        return self._named[part][number][0].image

    def case_name(self, part: Part, number: int) -> str:
        """The name of a case."""
        return self._files[part][number].name

    def native_mask(self, part: Part, index: int, opening: Opening | None = None) -> Pixels:
        """See `DataSet`."""
        number, depth = self._place(part, index)
        return self.cases(part, opening)[number].native_label[:, :, depth]

    def placement(self, part: Part, index: int, opening: Opening | None = None) -> Placement:
        """See `DataSet`: the slice itself."""
        height, width = self.native_mask(part, index, opening).shape
        return Placement(height, width, 0, 0, height, width)

    @cached_property
    def _slices(self) -> Mapping[Part, Sequence[Sample]]:
        return {part: self._slices_of(part) for part in ("train", "validation")}

    @cached_property
    def _test_samples(self) -> Sequence[Sample]:
        return self._slices_of("test")

    @cached_property
    def _test(self) -> list[PreparedCase]:
        return self._prepare("test", None)

    def _slices_of(self, part: Part) -> tuple[Sample, ...]:
        cases = self._test if part == "test" else self._prepared[part]
        return tuple(
            _slice(sample, case, depth)
            for (sample, _), case in zip(self._named[part], cases, strict=True)
            for depth in range(case.way.native.shape[2])
        )

    def _place(self, part: Part, index: int) -> tuple[int, int]:
        """The case of a slice, and its number along the last axis."""
        first = self._firsts[part] if part != "test" else self._test_firsts
        number = int(np.searchsorted(first, index, side="right")) - 1
        return number, index - int(first[number])

    @cached_property
    def _firsts(self) -> Mapping[Part, "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
        return {part: _first_slices(self._prepared[part]) for part in ("train", "validation")}

    @cached_property
    def _test_firsts(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        return _first_slices(self._test)

    def _prepare(self, part: Part, progress: Progress | None) -> list[PreparedCase]:
        outcome = prepare_cases(self.settings, self._files[part], cache=self.cache, progress=progress)
        self.decoded += outcome.fresh
        return outcome.cases

    def _paths(self, sample: Sample, row: Row) -> tuple[str, Path, Path]:
        return sample.name, self._root / row.image, self._root / row.mask

    def _refuse_leaks(self) -> None:
        """Raise DataError where the same file is an image of two parts."""
        seen: dict[str, tuple[Part, str]] = {}
        for part in PARTS:
            for files in self._files[part]:
                for digest in files.digests[:-1]:
                    other = seen.setdefault(digest, (part, files.name))
                    if other[0] != part:
                        raise DataError(
                            f"data.split = {self.settings.split!r}: {files.name} ({part}) and {other[1]} ({other[0]}) "
                            "are the same image; keep it in one part"
                        )


def _say_small(cases: Sequence[PreparedCase], config: VolumeData) -> None:
    """One line where training cases are smaller than a patch, however often a process opens them."""
    small = [case for case in cases if any(a < b for a, b in zip(case.way.shape, config.patch, strict=True))]
    if small:
        verb = "is" if len(small) == 1 else "are"
        patch, shape = (" x ".join(map(str, sides)) for sides in (config.patch, small[0].way.shape))
        _warn_once(
            f"{len(small)} of {counted(len(cases), 'case')} to train on {verb} smaller than a patch of {patch} voxels "
            f"along an axis, such as {small[0].name} of {shape}; what is beyond them is 0 and ignored"
        )


@lru_cache(maxsize=256)
def _warn_once(text: str) -> None:
    logger.warning("{}", text)


def _first_slices(cases: Sequence[PreparedCase]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    depths = [case.way.native.shape[2] for case in cases]
    return np.cumsum([0, *depths[:-1]], dtype=np.int64)


def _slice(sample: Sample, case: PreparedCase, depth: int) -> Sample:
    across, down, between = case.way.native.spacing
    return Sample(
        name=f"{sample.name}#{depth}",
        source=sample.source,
        group=sample.group,
        image=f"{sample.image}#{depth}",
        case=sample.case,
        spacing=(between, across, down),
    )


def _middle_planes(case: PreparedCase) -> Pixels:
    """Three planes through the middle of the first channel, side by side, 8 bits."""
    image = np.asarray(case.image[0], np.float32)
    x, y, z = (side // 2 for side in image.shape)
    planes = [image[x], image[:, y], image[:, :, z]]
    low, high = (float(np.quantile(np.concatenate([plane.ravel() for plane in planes]), q)) for q in (0.005, 0.995))
    tall = max(plane.shape[0] for plane in planes)
    rows = [np.pad(plane, ((0, tall - plane.shape[0]), (0, 0)), constant_values=low) for plane in planes]
    grey = np.clip((np.concatenate(rows, axis=1) - low) / max(high - low, 1e-12), 0, 1) * 255
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


@lru_cache(maxsize=2)
def _shown(images: tuple[Path, ...], config: VolumeData) -> Picture:
    """(X, Y, Z, C) of a case's files as stored, 8 bits a channel."""
    arrays, _ = read_image(images, config.channels)
    window = recipe_of(config).window
    shown = []
    for array in arrays:
        low, high = window or (float(np.quantile(array, 0.005)), float(np.quantile(array, 0.995)))
        shown.append((np.clip((array - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8))
    return np.stack(shown, axis=-1)


def _content(
    config: VolumeData, named: Mapping[Part, Sequence[tuple[Sample, Row]]], files: Mapping[Part, Sequence[CaseFiles]]
) -> str:
    """sha256 over what every case is: names, files, groups and parts, the recipe and the meaning of its values."""
    stated = json.dumps([recipe_of(config).stated(), str(coding_for(config)), str(config.channels)], sort_keys=True)
    rows = [
        (sample.name, *case.digests, sample.group, part)
        for part in PARTS
        for (sample, _), case in zip(named[part], files[part], strict=True)
    ]
    return hashlib.sha256("\x1e".join([stated, *("\x1f".join(row) for row in sorted(rows))]).encode()).hexdigest()
