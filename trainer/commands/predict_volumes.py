"""Masks for a folder of volumes: NIfTI files in, label files on the same grids out."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.cli.progress import Counting
from trainer.config import VolumeData
from trainer.data.classes import ground
from trainer.data.dataset import Pixels, by_threshold
from trainer.data.file_check import summarised
from trainer.data.masks import Coding, is_grey, regions_of
from trainer.data.volumes.case import PreparedCase
from trainer.data.volumes.nifti import SUFFIXES, is_nifti, stored_file
from trainer.data.volumes.prepare import coding_for, made_case
from trainer.data.volumes.recipes import recipe_of
from trainer.distributed.launch import writable
from trainer.errors import DataError, UserError, counted, on_stderr, one_line
from trainer.package.inference import labels as thresholded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.checkpoint import Ready
    from trainer.config import Precision

NOT_ALL = 2
_GREY = 0x010101


class CaseImages(NamedTuple):
    """The files of a case that has no labels yet."""

    name: str
    files: tuple[Path, ...]


def predict_volumes(
    made: "Ready",
    config: VolumeData,
    folder: Path,
    output: Path,
    *,
    threshold: float | None,
    precision: "Precision",
    where: "torch.device",
) -> int:
    """Write a label file for each case of a folder, with the affine and the shape of its image; 0, or NOT_ALL.

    Files hold the values that the classes have in the data's own label files, the first where a class has several. Of
    regions there is a file of 0 and 1 each, CASE_REGION.nii.gz. A case that cannot be read is named, and the others are
    done. Raises UserError where the folder holds no case or the output cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds volumes ({', '.join(SUFFIXES)})")
    cases, left = cases_in(folder, config.channels)
    if not cases:
        raise UserError(
            f"{folder}: holds no volume; known kinds: {', '.join(SUFFIXES)}" + (f"; found: {left[0]}" if left else "")
        )
    writable(output / f"{cases[0].name}.nii.gz")
    recipe, coding = recipe_of(config), coding_for(config)
    counting, bad = Counting("segmenting"), list[DataError]()
    for number, case in enumerate(cases, 1):
        try:
            ready = made_case(case.name, case.files, None, recipe, coding, config.channels)
        except DataError as error:
            bad.append(error)
            continue
        mask = _labels(made, config, ready, threshold=threshold, precision=precision, where=where)
        for name, values in _files(case.name, mask, coding, config):
            write_labels(output / name, values, case.files[0])
        counting(number, len(cases))
    for line in (*summarised(bad), *(f"left out  {line}" for line in left)):
        on_stderr(f"error: {one_line(line)}" if not line.startswith("left out") else line)
    done = len(cases) - len(bad)
    failed = f"; {len(bad)} of {counted(len(cases), 'case')} could not be read" if bad else ""
    print(f"{output}  {counted(done, 'label file')} on the grids of the images, by {made.path}{failed}")
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


def _labels(
    made: "Ready",
    config: VolumeData,
    case: PreparedCase,
    *,
    threshold: float | None,
    precision: "Precision",
    where: "torch.device",
) -> Pixels:
    """Labels (A, B, slices) on the grid of a case's files; of regions a mask each before these axes."""
    import torch

    from trainer.evaluation.metrics import predictor
    from trainer.evaluation.native_slices import native_slices, window_of

    several = regions_of(config) is not None
    predict: Callable[[Tensor], Tensor] = predictor(made.network, where, precision)
    image = case.normaliser.of_case(case.image)
    native = case.way.native.shape
    out = np.zeros((made.classes, *native) if several else native, np.uint8)
    with torch.no_grad():
        slices = native_slices(image, case.way, window_of(config), predict, where, ground=ground(several))
        for depth, logits in slices:
            out[..., depth] = thresholded(logits.cpu().numpy(), threshold, regions=several)
    return out


def _files(name: str, mask: Pixels, coding: Coding, config: VolumeData) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """What is written of a case: names and values."""
    if mask.ndim == 4:
        for region, values in zip(config.regions, mask, strict=True):
            yield f"{name}_{region.name}.nii.gz", values
        return
    values = np.zeros(256, np.uint8)
    for value, label in reversed(coding.labels):
        values[label] = value // _GREY if is_grey(value) else label
    yield f"{name}.nii.gz", values[mask]


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


def check_threshold(threshold: float | None, made: "Ready", config: VolumeData) -> float | None:
    """The threshold to use: none where a voxel is of its likeliest class. Raises UserError."""
    if threshold is not None and not by_threshold(made.classes, regions=regions_of(config) is not None):
        raise UserError(f"--threshold {threshold:g}: {made.path} has {made.classes} classes; leave it out")
    return threshold


def _stem(path: Path) -> str:
    name = path.name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else path.stem
