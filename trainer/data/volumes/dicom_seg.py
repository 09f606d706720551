"""Labels of a DICOM series as a DICOM SEG object: one binary segment a class or region, on the series' own slices.

highdicom (the extra `dicom`) writes it: Part 3 of the standard, A.51 and C.8.20. Masks go to it in the order of the
source images, and never as a volume, whose slices it counts from the other end.
"""

import copy
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.config import ClassCode, Code
from trainer.data.classes import Colour
from trainer.data.dataset import Pixels
from trainer.data.volumes.dicom import EXTRA, Series
from trainer.errors import DataError, UserError, one_line, refusal_text

PRIVATE = "99KDSEARCH"
"""The coding scheme of classes that have no code; 99 begins those that nobody registered."""
CATEGORY = Code(scheme="SCT", value="123037004", meaning="Anatomical Structure")
"""Of a class with a code that names no category."""
NO_CATEGORY = Code(scheme=PRIVATE, value="class", meaning="Class of a network")
"""Of a class without a code: whether it is an organ or a lesion is not known."""
SERIES_AFTER = 1000
"""What is added to the number of the source series."""

_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""What every object has, if empty; series whose names were taken out often lack it."""
_LONG = 64
"""Characters of a DICOM text of one line."""


class Segment(NamedTuple):
    """What a label, or a region, is called in the object."""

    name: str
    colour: Colour
    code: ClassCode | None
    """None: `PRIVATE`, with the name for value and meaning."""


class Maker(NamedTuple):
    """What made the labels, for whoever reads the object."""

    version: str
    """Of this program."""
    digest: str
    """sha256 of the network's file."""


def need_writer() -> Any:
    """highdicom. Raises UserError where it is not installed."""
    try:
        return import_module("highdicom")
    except ImportError as error:
        raise UserError(f"DICOM SEG is written with highdicom, which is not installed; {EXTRA}") from error


def write_segmentation(path: Path, mask: Pixels, series: Series, segments: Sequence[Segment], maker: Maker) -> None:
    """Write labels (X, Y, Z) whose 1, 2, ... are the segments, or masks (segments, X, Y, Z), on the grid of a series.

    Slices without a segment are left out, and a segment without any voxel is described only. Raises DataError where the
    series lacks what a SEG object takes from it, UserError where the file cannot be written.
    """
    highdicom = need_writer()
    headers = [_completed(header) for header in series.headers]
    first = headers[0]
    step = series.grid.spacing[2]
    # In the order of the source images: (Z, Y, X), of regions with the segments behind.
    pixels = np.ascontiguousarray(mask.T) if mask.ndim == 3 else np.ascontiguousarray(mask.transpose(3, 2, 1, 0))
    try:
        made = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=pixels,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_described(highdicom, segments, maker),
            series_instance_uid=highdicom.UID(),
            series_number=int(first.get("SeriesNumber") or 0) + SERIES_AFTER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="kd-search",
            manufacturer_model_name="kd-search",
            software_versions=maker.version,
            device_serial_number=maker.digest[:_LONG],
            content_description="Segmentation by a network; not for clinical use",
            series_description="Segmentation by kd-search",
            pixel_measures=highdicom.PixelMeasuresSequence(
                pixel_spacing=[float(each) for each in first.PixelSpacing],
                slice_thickness=float(first.get("SliceThickness") or step),
                spacing_between_slices=step,
            ),
            omit_empty_frames=bool(pixels.any()),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{series.folder}: no DICOM SEG can be made of its headers ({one_line(error)[:160]}); --as nifti writes "
            "the labels"
        ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        made.save_as(beside)
        beside.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({refusal_text(error)}); choose another place") from error


def _completed(header: Any) -> Any:
    """A header with what every object has, if empty."""
    lacking = [name for name in _TYPE_2 if name not in header]
    if lacking:
        header = copy.copy(header)
        for name in lacking:
            setattr(header, name, None)
    return header


def _described(highdicom: Any, segments: Sequence[Segment], maker: Maker) -> list[Any]:
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="kd-search",
        family=_coded(highdicom, Code(scheme="DCM", value="123110", meaning="Artificial Intelligence")),
        version=maker.version,
        parameters={"network sha256": maker.digest},
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.name,
            segmented_property_category=_coded(highdicom, category_of(segment)),
            segmented_property_type=_coded(highdicom, code_of(segment)),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
        )
        for number, segment in enumerate(segments, 1)
    ]


def code_of(segment: Segment) -> Code:
    """What a segment is."""
    return segment.code or Code(scheme=PRIVATE, value=segment.name, meaning=segment.name)


def category_of(segment: Segment) -> Code:
    """What kind of thing that is."""
    return NO_CATEGORY if segment.code is None else segment.code.category or CATEGORY


def _coded(highdicom: Any, code: Code) -> Any:
    return highdicom.sr.CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)
