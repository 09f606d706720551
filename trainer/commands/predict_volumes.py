"""Masks for a folder of volumes: NIfTI files in, label files on the same grids out."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.cli.progress import Counting
from trainer.config import VolumeData
from trainer.data.classes import classes_of, ground
from trainer.data.dataset import Pixels, by_threshold
from trainer.data.file_check import Progress, summarised
from trainer.data.masks import regions_of
from trainer.data.volumes.case import PreparedCase
from trainer.data.volumes.geometry import Scores
from trainer.data.volumes.nifti import SUFFIXES, Channels, is_nifti, stored_file
from trainer.data.volumes.prepare import coding_for, made_case
from trainer.data.volumes.recipes import Recipe, recipe_of
from trainer.distributed.launch import writable
from trainer.errors import DataError, UserError, counted, on_stderr, one_line
from trainer.evaluation.native_slices import native_slices, window_of
from trainer.evaluation.sliding_window import counted_windows
from trainer.package.inference import DEFAULT_THRESHOLD
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
    files: tuple[Path, ...]


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
    slices: Callable[[PreparedCase, Progress], Iterator[tuple[int, Scores]]]
    """Logits (classes, A, B) of each slice along the last axis of a case's files, with its number."""


def packed_reader(packed: PackedVolumes, by: str) -> CaseReader:
    """The network of a package; without torch."""
    p = packed.preprocessing
    return CaseReader(by, p.recipe, p.channels, p.classes, p.values, p.least, packed.slices)


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
        slices=slices,
    )


def predict_volumes(reader: CaseReader, folder: Path, output: Path) -> int:
    """Write a label file for each case of a folder, with the affine and the shape of its image; 0, or NOT_ALL.

    Files hold the values that the classes have in the data's own label files, the first where a class has several. Of
    regions there is a file of 0 and 1 each, CASE_REGION.nii.gz. A case that cannot be read is named, and the others are
    done. Raises UserError where the folder holds no case or the output cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds volumes ({', '.join(SUFFIXES)})")
    cases, left = cases_in(folder, reader.channels)
    if not cases:
        raise UserError(
            f"{folder}: holds no volume; known kinds: {', '.join(SUFFIXES)}" + (f"; found: {left[0]}" if left else "")
        )
    writable(output / f"{cases[0].name}.nii.gz")
    bad = list[DataError]()
    for number, case in enumerate(cases, 1):
        try:
            ready = made_case(case.name, case.files, reader.recipe, reader.channels)
        except DataError as error:
            bad.append(error)
            continue
        mask = labels_of_case(reader, ready, Counting(f"segmenting {case.name} ({number} of {len(cases)}), window"))
        for name, values in _files(case.name, mask, reader):
            write_labels(output / name, values, case.files[0])
    for line in (*summarised(bad), *(f"left out  {line}" for line in left)):
        on_stderr(f"error: {one_line(line)}" if not line.startswith("left out") else line)
    done = len(cases) - len(bad)
    failed = f"; {len(bad)} of {counted(len(cases), 'case')} could not be read" if bad else ""
    print(f"{output}  {counted(done, 'label file')} on the grids of the images, by {reader.by}{failed}")
    return NOT_ALL if bad else 0


def cases_in(folder: Path, channels: int | Sequence[str]) -> tuple[list[CaseImages], list[str]]:
    """The cases of a folder by name, and what was left out: with named channels the files CASE_CHANNEL or CASE-CHANNEL
    of each, which have to be whole."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_nifti(path.name))
    others = Counter(path.suffix for path in folder.iterdir() if path.is_file() and not is_nifti(path.name))
    left = [f"{count} {suffix or 'nameless'} files, of a kind that is not read" for suffix, count in others.items()]
    if isinstance(channels, int):
        return [CaseImages(_stem(path), (path,)) for path in files], left
    by_case: dict[str, dict[str, Path]] = {}
    behind = re.compile(rf"(.+)[_-]({'|'.join(map(re.escape, channels))})")
    for path in files:
        match = behind.fullmatch(_stem(path))
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
            whole.append(CaseImages(name, tuple(own[channel] for channel in channels)))
    return whole, left


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


def write_labels(path: Path, values: NDArray[np.uint8], image: Path) -> None:
    """Write a label file with the shape, affine and units of an image's file. Raises UserError."""
    nibabel, stored = stored_file(image)
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


def _stem(path: Path) -> str:
    name = path.name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else path.stem
