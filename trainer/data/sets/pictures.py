"""Pictures with masks that a split file lists: polyps and whatever else has an object and a ground, and data sets that
name their classes.

Sources that no split names are folders of images and masks below the data root, for a last look at a trained network.
Their images count as test rows: without the record of an opening nothing of them is read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from loguru import logger

from trainer.config import DataConfig, PictureData, PolypData, VolumeData
from trainer.data.cache import Decoded, Pair, decoded
from trainer.data.classes import channels_of, classes_of
from trainer.data.dataset import DataSet, Opening, Part, Picture, Pixels, Placement, Sample
from trainer.data.file_check import Progress, in_threads
from trainer.data.files import file_hash
from trainer.data.layouts import DataFolder, recognised, surveyed
from trainer.data.masks import regions_of
from trainer.data.openings import require_opening
from trainer.data.perceptual_hash import ImageHashes
from trainer.data.reading import OUTLINES, PLAIN, Reading, content_hash, given_coding, named_coding, reading_of
from trainer.data.slices import forget_volumes, gaps_in, order_of, slice_place, spacing_of
from trainer.data.splits.folders import pattern_from
from trainer.data.splits.mask_codings import Codings, codings_of, given_codings, kept_values, refuse_empty_parts
from trainer.data.splits.near_duplicates import kept_looks, refuse_crossing, twins
from trainer.data.splits.split import PARTS, Row, data_root, read_groups, read_split, samples
from trainer.errors import DataError, nearest
from trainer.repository import REPOSITORY, expand

GROUPS = "groups.csv"
"""In the folder of a source that no split names: its patients or sequences."""


def open_pictures(config: PolypData | PictureData, *, cache: Path, progress: Progress | None = None) -> "SplitPictures":
    """Read the split file, hash every file it names, and decode what is not in the cache. Raises DataError.

    Test rows are hashed here and looked at for leaks; they are decoded only when they are opened. Identical pictures in
    two parts are refused, near-identical ones too unless the settings accept them.
    """
    root = data_root(config)
    rows = read_split(split_file(config), root, cells=isinstance(config, PictureData) and config.reader is not None)
    data = SplitPictures(config, root, rows, cache, progress)
    data.refuse_empty_parts(
        f"data.split = {config.split!r}", "draw the split again with another --seed, or give more images with an object"
    )
    data.refuse_leaks(config, progress)
    forget_volumes()
    return data


def split_file(config: PolypData | PictureData | VolumeData) -> Path:
    """The split file of the settings. Raises DataError where it is not there."""
    split = expand(config.split, "data.split")
    if not split.is_file():
        raise DataError(
            f"data.split = {config.split!r}: no such file {split.absolute()}; a relative path starts at the current "
            f"folder: {_way_to(split)}; `python -m trainer data split` writes a new one"
        )
    return split


def _way_to(split: Path) -> str:
    """How to get to a split file that is not here: it may lie beside the program, as its studies do."""
    return f"cd {REPOSITORY}" if (REPOSITORY / split).is_file() else "cd to the folder where the study was made"


class SplitPictures:
    """The `DataSet` of some rows, as a split file has them, below a root."""

    def __init__(
        self,
        config: PolypData | PictureData,
        root: Path,
        rows: Sequence[Row],
        cache: Path,
        progress: Progress | None = None,
    ) -> None:
        self.config: DataConfig = config
        self._settings = config
        self.channels = channels_of(config)
        self.classes = len(classes_of(config))
        self.class_names: Sequence[str] = tuple(known.name for known in classes_of(config))
        self.regions = regions_of(config)
        self._plain = plain = PLAIN if isinstance(config, PolypData) else reading_of(config, named_coding(config))
        self._cache, self._root = cache, root
        named = sorted(zip(_spaced(samples(rows), root), rows, strict=True), key=lambda pair: order_of(pair[0].name))
        self._rows: dict[Part, list[Row]] = {part: [row for _, row in named if row.part == part] for part in PARTS}
        self._samples: dict[Part, tuple[Sample, ...]] = {
            part: tuple(sample for sample, row in named if row.part == part) for part in PARTS
        }
        _say_gaps([sample for part in ("validation", "test") for sample in self._samples[part]])
        self._hashes = self._hash_files()
        self.content_hash = _content(self._contents(*PARTS))
        self._all_rows = [row for part in PARTS for row in self._rows[part]]
        files = [(self._mask_hash(row), root / row.mask) for row in self._all_rows]
        images = [root / row.image for row in self._all_rows]
        self._values = kept_values(cache, files, progress, reading=plain, images=images)
        self._codings, self._readings = self._meanings(plain)
        self._known_looks: dict[str, ImageHashes] | None = None
        self.near_duplicates = 0
        self.decoded = 0
        self._decoded: dict[Part, Decoded] = {part: self._decode(part, progress) for part in ("train", "validation")}

    def _meanings(self, plain: Reading) -> tuple[Codings, Mapping[str, Reading]]:
        """What the masks of each source mean, and how its pairs are read. Raises DataError."""
        if isinstance(self._settings, PolypData):
            codings = codings_of(
                self._all_rows, self._values, self._settings.labels, field="data.labels", remedy="data.labels ="
            )
            return codings, {source: Reading(coding) for source, coding in codings.items()}
        # Cells have a coding that their classes do not say.
        given = plain.coding or given_coding(self._settings)
        codings = given_codings(self._all_rows, self._values, given)
        return codings, dict.fromkeys(codings, plain)

    def samples(self, part: Part, opening: Opening | None = None) -> Sequence[Sample]:
        """See `DataSet`."""
        require_opening(part, opening)
        return self._samples[part]

    def image_hashes(self, part: Part) -> Sequence[str]:
        """See `DataSet`."""
        return [self._hashes[row.image] for row in self._rows[part]]

    def sketches(self, part: Part) -> Sequence[bytes]:
        """See `DataSet`."""
        looks = self._looks(None)
        return [looks[row.image].sketch for row in self._rows[part]]

    def refuse_empty_parts(self, where: str, remedy: str) -> None:
        """Raise DataError where all masks of a part are empty."""
        refuse_empty_parts(self._all_rows, self._values, self._codings, where, remedy=remedy)

    def refuse_leaks(self, config: PolypData | PictureData, progress: Progress | None = None) -> None:
        """Raise DataError where the same picture is in two parts; near-identical ones pass where the settings say so,
        and are counted."""
        looks = self._looks(progress)
        self.near_duplicates = refuse_crossing(
            twins(self._all_rows, [looks[row.image] for row in self._all_rows]),
            f"data.split = {config.split!r}",
            accept=config.near_duplicates == "accept",
            remedy="`python -m trainer data check` lists them; `python -m trainer data split` "
            'keeps them in one part, and data.near_duplicates = "accept" lets them pass',
        )

    def fitted(self, part: Part, index: int, opening: Opening | None = None) -> tuple[Picture, Pixels]:
        """See `DataSet`; views into the cache, read-only."""
        arrays = self._arrays(part, opening)
        return arrays.images[index], arrays.masks[index]

    def native(self, part: Part, index: int, opening: Opening | None = None) -> tuple[Picture, Pixels]:
        """See `DataSet`; reads the files."""
        require_opening(part, opening)
        image, mask, reading = self._files(self._rows[part][index])
        return reading.pair(image, mask)

    def native_mask(self, part: Part, index: int, opening: Opening | None = None) -> Pixels:
        """See `DataSet`; a view into the cache, read-only."""
        return self._arrays(part, opening).native[index]

    def placement(self, part: Part, index: int, opening: Opening | None = None) -> Placement:
        """See `DataSet`."""
        return self._arrays(part, opening).placements[index]

    @cached_property
    def _test(self) -> Decoded:
        return self._decode("test", None)

    def _arrays(self, part: Part, opening: Opening | None) -> Decoded:
        require_opening(part, opening)
        return self._test if part == "test" else self._decoded[part]

    def _decode(self, part: Part, progress: Progress | None) -> Decoded:
        pairs = [self._files(row) for row in self._rows[part]]
        made = decoded(self._cache, _content(self._contents(part)), pairs, self._settings, progress)
        self.decoded += len(pairs) if made.fresh else 0
        forget_volumes()
        return made

    def _files(self, row: Row) -> Pair:
        return self._root / row.image, self._root / row.mask, self._readings[row.source]

    def _looks(self, progress: Progress | None) -> dict[str, ImageHashes]:
        """By image, of all parts."""
        if self._known_looks is None:
            names = list(dict.fromkeys(row.image for row in self._all_rows))
            files = [(self._hashes[name], self._root / name) for name in names]
            self._known_looks = dict(
                zip(names, kept_looks(self._cache, files, progress, reading=self._plain), strict=True)
            )
        return self._known_looks

    def _hash_files(self) -> dict[str, str]:
        names = list(
            dict.fromkeys(name for part in PARTS for row in self._rows[part] for name in (row.image, row.mask))
        )
        volumes = list(dict.fromkeys(place.file for name in names if (place := slice_place(self._root / name))))
        digests = dict(zip(volumes, in_threads(file_hash, volumes, name="hash"), strict=True))
        classes = self._plain.classes if self.regions else self.class_names
        hashes = in_threads(lambda name: content_hash(self._root / name, classes, digests), names, name="hash")
        return dict(zip(names, hashes, strict=True))

    def _mask_hash(self, row: Row) -> str:
        """What the values of a row's mask depend on: its file, and the picture whose size outlines take."""
        digest = self._hashes[row.mask]
        return f"{digest}/{self._hashes[row.image]}" if row.mask.lower().endswith(OUTLINES) else digest

    def _contents(self, *parts: Part) -> list[tuple[str, ...]]:
        """Name, image, mask, group and part of each row; groups as the file names them, so no path enters. What a
        person said of the masks' values follows."""
        return [*self._stated(), *self._row_contents(*parts)]

    def _stated(self) -> list[tuple[str, ...]]:
        config = self._settings
        if isinstance(config, PolypData):
            return [] if config.labels is None else [("labels", config.labels)]
        values = [(f"class {at}", known.name, str(known.value)) for at, known in enumerate(config.classes)]
        kinds = ("kind", str(config.channels), str(config.bits), str(config.window), str(config.ignore))
        regions = [(f"region {at}", known.name, str(known.value)) for at, known in enumerate(config.regions)]
        return [*values, *regions, kinds, *([] if config.reader is None else [("reader", config.reader)])]

    def _row_contents(self, *parts: Part) -> list[tuple[str, ...]]:
        return [
            (sample.name, self._hashes[row.image], self._hashes[row.mask], sample.group, part)
            for part in parts
            for sample, row in zip(self._samples[part], self._rows[part], strict=True)
        ]


def _say_gaps(scored: Sequence[Sample]) -> None:
    """Warn of volumes that are scored as one and lack slices: what lies on either side is taken for neighbours."""
    volumes: dict[str, list[str]] = {}
    for sample in scored:
        volumes.setdefault(sample.case, []).append(sample.image)
    gaps = {case: gap for case, names in volumes.items() if len(names) > 1 and (gap := gaps_in(names))}
    if gaps:
        case, ((before, after), *_) = next(iter(gaps.items()))
        logger.warning(
            "{} of {} volumes that are scored lack slices between others ({}: none between {} and {}); distances take "
            "what is there for neighbours: add rows for the missing slices",
            len(gaps), len(volumes), case, before, after,
        )  # fmt: skip


def _spaced(taken: Sequence[Sample], root: Path) -> list[Sample]:
    """The samples with the lengths that their volumes state."""
    files = {sample.image: place for sample in taken if (place := slice_place(root / sample.image))}
    lengths = {place.file: spacing_of(root / image) for image, place in files.items()}
    return [
        replace(sample, spacing=lengths[files[sample.image].file]) if sample.image in files else sample
        for sample in taken
    ]


def _content(rows: list[tuple[str, ...]]) -> str:
    return hashlib.sha256("\x1e".join("\x1f".join(row) for row in sorted(rows)).encode()).hexdigest()


def open_unseen(config: DataConfig, name: str, *, cache: Path, masks_pattern: str | None = None) -> DataSet:
    """All images of the folder `name` below the root of the data, as test rows, fitted as the data's settings say.

    masks_pattern: how the masks are named, as `pattern_from` reads it; None: as the folder's layout or its names say.
    Parts that the folder is divided into are taken together. Groups are those of the file GROUPS in the folder, as
    `read_groups` takes them; without it those that the layout knows. Raises DataError where the folder cannot be used
    or the data has no folders.
    """
    if not isinstance(config, PolypData | PictureData):
        raise DataError(f"unseen = {name!r}: {config.name} has no other sources; remove it")
    root = data_root(config)
    folder = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not folder.is_dir():
        known = sorted(below.name for below in root.iterdir() if below.is_dir() and not below.name.startswith("."))
        raise DataError(f"unseen = {name!r}: no such folder in {root}{nearest(name, known)}")
    survey = surveyed(
        DataFolder(folder, recognised(folder)), None if masks_pattern is None else pattern_from(masks_pattern)
    )
    rows = [
        Row(
            name,
            pair.image.relative_to(root).as_posix(),
            pair.mask.relative_to(root).as_posix(),
            pair.group,
            "test",
            pair.case,
        )
        for pair in survey.pairs
    ]
    if (folder / GROUPS).exists():
        rows = read_groups(folder / GROUPS, rows, root)
    source = SplitPictures(config, root, rows, cache)
    source.refuse_empty_parts(f"unseen = {name!r}", "give a folder of images with an object")
    return source
