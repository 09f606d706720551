#!/usr/bin/env bash
# rt-utils 1.2.7: holes survive an RTSTRUCT without the flag for holes, and with it objects lose pixels.
#
# Guess: an RTSTRUCT has closed outlines alone, so that a ring comes back as a filled disc unless it is written with `use_pin_hole=True`,
# which joins the outline of a hole to the outer one by a cut without width, and with it the mask comes back as it was.
# Behaviour: without the flag all outlines of a slice are filled by turns (what is inside an even number of them is outside), and rings,
# islands in holes, single pixels and lines come back exactly. With the flag the cut is one pixel wide: a ring of 236 pixels has 224.
# Objects without holes are the same either way.
# Output seen:
#   disc: 317 pixels, without the flag 317, with it 317
#   ring: 236 pixels, without the flag 236, with it 224
#   island in a hole: 197 pixels, without the flag 197, with it 191
#   one pixel: 1 pixels, without the flag 1, with it 1
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check rt-utils==1.2.7 pydicom==3.0.2 numpy==2.4.6 opencv-python==5.0.0.93
cat > ask.py <<'PY'
import contextlib
import io
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rt_utils import RTStructBuilder

SIDE = 40
SERIES = Path("series")
EMPTY = (
    "PatientBirthDate PatientSex PatientAge PatientSize PatientWeight AccessionNumber StudyDescription SeriesDescription "
    "Manufacturer ManufacturerModelName StationName InstitutionName ReferringPhysicianName"
).split()


def write_series() -> None:
    SERIES.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for number in range(3):
        image, meta = Dataset(), FileMetaDataset()
        for name in EMPTY:
            setattr(image, name, "")
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, image.SOPInstanceUID
        image.file_meta = meta
        image.PatientName, image.PatientID, image.StudyID, image.Modality = "Drawn", "1", "1", "CT"
        image.StudyDate = image.SeriesDate = "20260101"
        image.StudyTime = image.SeriesTime = "000000"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.SeriesNumber, image.InstanceNumber = 1, number + 1
        image.Rows = image.Columns = SIDE
        image.PixelSpacing, image.SliceThickness = [1, 1], 1
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit = 15
        image.PixelData = np.zeros((SIDE, SIDE), np.uint16).tobytes()
        image.save_as(SERIES / f"{number}.dcm", enforce_file_format=True)


def through_file(mask, *, pin_hole):
    file = Path(f"rt-{pin_hole}.dcm").absolute()
    with contextlib.redirect_stdout(io.StringIO()):
        structures = RTStructBuilder.create_new(dicom_series_path=str(SERIES))
        structures.add_roi(mask=mask, name="object", use_pin_hole=pin_hole)
        structures.save(str(file))
        return RTStructBuilder.create_from(str(SERIES), str(file)).get_roi_mask_by_name("object")


def middle(plane):
    volume = np.zeros((SIDE, SIDE, 3), dtype=bool)
    volume[:, :, 1] = plane
    return volume


write_series()
y, x = np.mgrid[:SIDE, :SIDE] - 20
far = y**2 + x**2
shapes = {
    "disc": far <= 100,
    "ring": (far <= 100) & (far > 25),
    "island in a hole": ((far <= 100) & (far > 49)) | (far <= 9),
    "one pixel": far == 0,
}
lost = {}
for name, plane in shapes.items():
    mask = middle(plane)
    plain, pinned = (through_file(mask, pin_hole=each) for each in (False, True))
    print(f"{name}: {mask.sum()} pixels, without the flag {plain.sum()}, with it {pinned.sum()}")
    assert (plain == mask).all(), name
    assert not (pinned & ~mask).any(), name
    lost[name] = int((mask & ~pinned).sum())
assert lost == {"disc": 0, "ring": 12, "island in a hole": 6, "one pixel": 0}, lost
PY
venv/bin/python ask.py
