"""Masks for a folder of volumes: NIfTI files or DICOM series in, label files or DICOM SEG on the same grids out."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.atomic_files import writable
from trainer.cli.progress import Counting
from trainer.config import VolumeData
from trainer.data.classes import classes_of, ground
from trainer.data.dataset import Pixels, by_threshold
from trainer.data.file_check import Progress, summarised
from trainer.data.files import file_hash, some
from trainer.data.masks import regions_of
from trainer.data.volumes.case import PreparedCase
from trainer.data.volumes.dicom import Series, is_dicom, read_series, series_folders, series_in
from trainer.data.volumes.dicom_seg import PRIVATE, Maker, Segment, need_writer, write_segmentation
from trainer.data.volumes.geometry import Grid, Scores
from trainer.data.volumes.nifti import SUFFIXES, Channels, is_nifti, new_file, stored_file
from trainer.data.volumes.prepare import case_of, coding_for, made_case
from trainer.data.volumes.recipes import Recipe, recipe_of
from trainer.errors import DataError, UserError, counted, on_stderr, one_line
from trainer.evaluation.native_slices import native_slices, window_of
from trainer.evaluation.sliding_window import counted_windows
from trainer.package.inference import DEFAULT_THRESHOLD, NETWORK
from trainer.package.inference import labels as thresholded
from trainer.package.volumes import PackedVolumes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.checkpoint import Ready
    from trainer.config import Precision

NOT_ALL = 2


class CaseImages(NamedTuple):
    """The files of a case that has no labels yet."""

    name: str
    """Of its label file, behind the folders that a series lies in."""
    files: tuple[Path, ...]
    """NIfTI files, or folders with a DICOM series each: one, or one a channel."""
    series: bool = False


Form = Literal["nifti", "dicom-seg"]
NOTE = (
    "note: the network takes axes as stored; of a series these are x along a picture's rows, y down its columns, z "
    "along their normal; where another program made the training files (dcm2niix turns y round), convert the series so"
)


@dataclass(frozen=True)
class Wanted:
    """How cases are chosen, and what is written of them."""

    form: Form | None = None
    """None: DICOM SEG of series, label files of NIfTI."""
    series: Sequence[str] = ()
    """UIDs of the series that are cases; none: every folder is of one series."""


@dataclass(frozen=True)
class CaseReader:
    """What makes logits of a case, and how its files are read and written."""

    by: str
    """Where the network comes from, for messages."""
    recipe: Recipe
    channels: Channels
    classes: Sequence[str]
    """The names of the network's outputs."""
    values: Sequence[int] | None
    """What label files hold of each class; None: the classes are regions, with a file of 0 and 1 each."""
    thresholds: Sequence[float]
    """One, or one a region; none: a voxel is of its likeliest class."""
    segments: Sequence[Segment]
    """The classes without the ground, or the regions, as DICOM SEG has them."""
    network: Path
    """The file of the network, whose sha256 stands in DICOM SEG."""
    slices: Callable[[PreparedCase, Progress], Iterator[tuple[int, Scores]]]
    """Logits (classes, A, B) of each slice along the last axis of a case's files, with its number."""


def packed_reader(packed: PackedVolumes, folder: Path) -> CaseReader:
    """The network of a package in a folder; without torch."""
    p = packed.preprocessing
    segments = tuple(
        Segment(known.name, known.colour, code)
        for known, code in zip(p.label_classes, p.codes or (None,) * len(p.classes), strict=True)
    )
    return CaseReader(
        by=str(folder),
        recipe=p.recipe,
        channels=p.channels,
        classes=p.classes,
        values=p.values,
        thresholds=p.least,
        segments=segments[ground(p.regions) :],
        network=folder / NETWORK,
        slices=packed.slices,
    )


def trained_reader(
    made: "Ready", config: VolumeData, *, threshold: float | None, precision: "Precision", where: "torch.device"
) -> CaseReader:
    """The trained weights themselves. Raises UserError for a threshold where there are more than two classes."""
    from trainer.evaluation.metrics import predictor

    several = regions_of(config) is not None
    thresholded = by_threshold(made.classes, regions=several)
    if threshold is not None and not thresholded:
        raise UserError(f"--threshold {threshold:g}: {made.path} has {made.classes} classes; leave it out")
    network: Callable[[Tensor], Tensor] = predictor(made.network, where, precision)

    def slices(case: PreparedCase, progress: Progress) -> Iterator[tuple[int, Scores]]:
        import torch

        window = window_of(config)
        predict = counted_windows(network, window.count(case.way.shape), progress)
        image = case.normaliser.of_case(case.image)
        with torch.no_grad():
            for depth, logits in native_slices(image, case.way, window, predict, where, ground=ground(several)):
                yield depth, logits.cpu().numpy()

    coding = coding_for(config)
    return CaseReader(
        by=str(made.path),
        recipe=recipe_of(config),
        channels=config.channels,
        classes=[known.name for known in classes_of(config)],
        values=None if several else coding.values,
        thresholds=(threshold or DEFAULT_THRESHOLD,) if thresholded else (),
        segments=segments_of(config),
        network=made.path,
        slices=slices,
    )


def segments_of(config: VolumeData) -> tuple[Segment, ...]:
    """The classes of a data set without its ground, or its regions, with the codes that it gives them."""
    several = regions_of(config) is not None
    entries = config.regions if several else config.classes
    segments = tuple(
        Segment(known.name, known.colour, entry.code) for known, entry in zip(classes_of(config), entries, strict=True)
    )
    return segments[ground(several) :]


def predict_volumes(reader: CaseReader, folder: Path, output: Path, wanted: Wanted) -> int:
    """Write the labels of each case of a folder on the grid of its image; 0, or NOT_ALL.

    Label files hold the values that the classes have in the data's own label files, the first where one has several. Of
    regions there is a file of 0 and 1 each, CASE_REGION.nii.gz; a DICOM SEG holds all of them. A case that cannot be
    read is named, and the others are done. Raises UserError where the folder holds no case, what is wanted cannot be
    made of its cases, or the output cannot be written.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; give its folder, which may hold several")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds volumes ({', '.join(SUFFIXES)}, DICOM series)")
    cases, left = cases_in(folder, reader.channels, wanted.series)
    if not cases:
        raise UserError(
            f"{folder}: holds no volume; known kinds: {', '.join(SUFFIXES)}, folders of a DICOM series"
            + (f"; found: {left[0]}" if left else "")
        )
    _refuse(folder, cases, wanted)
    writable(output / f"{cases[0].name}.part")
    if reader.recipe.orientation == "stored" and any(case.series for case in cases):
        on_stderr(NOTE)
    bad, done = list[DataError](), Counter[Form]()
    for number, case in enumerate(cases, 1):
        try:
            ready, series = _prepared(case, reader, wanted.series)
            mask = labels_of_case(reader, ready, Counting(f"segmenting {case.name} ({number} of {len(cases)}), window"))
            form = wanted.form or ("dicom-seg" if series else "nifti")
            if series and form == "dicom-seg":
                maker = Maker(version("kd-search"), file_hash(reader.network))
                write_segmentation(output / f"{case.name}.dcm", mask, series, reader.segments, maker)
            else:
                for name, values in _files(case.name, mask, reader):
                    write_labels(output / name, values, series.grid if series else case.files[0])
        except DataError as error:
            bad.append(error)
            continue
        done[form] += 1
    _report(reader, output, len(cases), done, bad, left)
    return NOT_ALL if bad else 0


def _report(
    reader: CaseReader, output: Path, cases: int, done: Counter[Form], bad: Sequence[DataError], left: Sequence[str]
) -> None:
    for line in (*summarised(bad), *(f"left out  {line}" for line in left)):
        on_stderr(f"error: {one_line(line)}" if not line.startswith("left out") else line)
    nouns: dict[Form, str] = {"nifti": "label file", "dicom-seg": "DICOM segmentation"}
    counts = [counted(done[form], noun) for form, noun in nouns.items() if done[form] or (form == "nifti" and not done)]
    failed = f"; {len(bad)} of {counted(cases, 'case')} could not be read" if bad else ""
    print(f"{output}  {' and '.join(counts)} on the grids of the images, by {reader.by}{failed}")
    nameless = [segment.name for segment in reader.segments if segment.code is None]
    if done["dicom-seg"] and nameless:
        print(f"without a code: {', '.join(nameless)}; they stand in the private scheme {PRIVATE}")


def _refuse(folder: Path, cases: Sequence[CaseImages], wanted: Wanted) -> None:
    """Raise UserError where cases cannot be written as it is wanted."""
    files = [case.name for case in cases if not case.series]
    if wanted.form == "dicom-seg" and files:
        raise UserError(
            f"--as dicom-seg: {files[0]} is no DICOM series, and a DICOM SEG refers to one; leave --as out, or give "
            "the series"
        )
    if wanted.form != "nifti" and len(files) < len(cases):
        need_writer()
    double = next((name for name, count in Counter(case.name for case in cases).items() if count > 1), None)
    if double is not None:
        raise UserError(f"{folder}: {double} is there as a file and as a series; remove one, or rename it")


def cases_in(folder: Path, channels: Channels, picked: Sequence[str] = ()) -> tuple[list[CaseImages], list[str]]:
    """The cases of a folder by name, and what was left out: its NIfTI files, and it and the folders in it that hold
    DICOM files; with named channels the files and folders CASE_CHANNEL or CASE-CHANNEL of each, which have to be whole.

    picked: UIDs of series; only folders that have one of them count then. Raises UserError where none has one of these.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_nifti(path.name))
    folders = series_folders(folder)
    others = Counter(
        path.suffix
        for path in folder.iterdir()
        if path.is_file() and folder not in folders and not (is_nifti(path.name) or is_dicom(path))
    )
    left = [f"{count} {suffix or 'nameless'} files, of a kind that is not read" for suffix, count in others.items()]
    if picked:
        folders = _with_series(folder, folders, picked)
    named = [(_stem(path), path) for path in files]
    beside = [(_place(path, folder), path) for path in folders]
    cases = []
    for entries, series in ((named, False), (beside, True)):
        if isinstance(channels, int):
            cases += [CaseImages(name, (path,), series) for name, path in entries]
        else:
            whole, lacking = _whole(entries, channels)
            cases += [CaseImages(name, paths, series) for name, paths in whole]
            left += lacking
    return cases, left


def _whole(
    entries: Sequence[tuple[str, Path]], channels: Sequence[str]
) -> tuple[list[tuple[str, tuple[Path, ...]]], list[str]]:
    """Cases that have all channels, with their files or folders, and what belongs to none."""
    by_case: dict[str, dict[str, Path]] = {}
    left = []
    behind = re.compile(rf"(.+)[_-]({'|'.join(map(re.escape, channels))})")
    for name, path in entries:
        match = behind.fullmatch(name)
        if match is None:
            left.append(f"{path.name}: has none of the channels {', '.join(channels)} in its name")
        else:
            by_case.setdefault(match[1], {})[match[2]] = path
    whole = []
    for name, own in by_case.items():
        lacking = [channel for channel in channels if channel not in own]
        if lacking:
            left.append(f"{name}: lacks the channel {', '.join(lacking)}")
        else:
            whole.append((name, tuple(own[channel] for channel in channels)))
    return whole, left


def _with_series(root: Path, folders: Sequence[Path], picked: Sequence[str]) -> list[Path]:
    """The folders that hold one of the series. Raises UserError for a UID that none of them has."""
    held = {folder: set(series_in(folder)) for folder in folders}
    unknown = next((uid for uid in picked if not any(uid in uids for uids in held.values())), None)
    if unknown is not None:
        there = sorted(uid for uids in held.values() for uid in uids)
        raise UserError(f"--series {unknown}: {root} holds no such series; it has {some(there) or 'none'}")
    return [folder for folder, uids in held.items() if uids & set(picked)]


def _prepared(case: CaseImages, reader: CaseReader, picked: Sequence[str]) -> tuple[PreparedCase, Series | None]:
    """A case as the network takes it, and the series of its first channel where it is of DICOM. Raises DataError."""
    if not case.series:
        return made_case(case.name, case.files, reader.recipe, reader.channels), None
    arrays, first = read_series(case.files, reader.channels, picked)
    return case_of(case.name, arrays, first.grid, reader.recipe, str(first.folder)), first


def labels_of_case(reader: CaseReader, case: PreparedCase, progress: Progress) -> Pixels:
    """Labels (A, B, slices) on the grid of a case's files; of regions a mask each before these axes."""
    several = reader.values is None
    native = case.way.native.shape
    out = np.zeros((len(reader.classes), *native) if several else native, np.uint8)
    for depth, logits in reader.slices(case, progress):
        out[..., depth] = thresholded(logits, reader.thresholds, regions=several)
    return out


def _files(name: str, mask: Pixels, reader: CaseReader) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """What is written of a case: names and values."""
    if reader.values is None:
        for region, values in zip(reader.classes, mask, strict=True):
            yield f"{name}_{region}.nii.gz", values
    else:
        yield f"{name}.nii.gz", np.array(reader.values, np.uint8)[mask]


def write_labels(path: Path, values: NDArray[np.uint8], place: Path | Grid) -> None:
    """Write a label file with the shape, affine and units of an image's file, or on a grid. Raises UserError."""
    nibabel, stored = stored_file(place) if isinstance(place, Path) else new_file(place)
    header: Any = stored.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name.removesuffix('.nii.gz')}.part.nii.gz")
        nibabel.save(nibabel.Nifti1Image(values, stored.affine, header), beside)
        beside.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _place(path: Path, root: Path) -> str:
    return root.resolve().name if path == root else path.relative_to(root).as_posix()


def _stem(path: Path) -> str:
    name = path.name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else path.stem
