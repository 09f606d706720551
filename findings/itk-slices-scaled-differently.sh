#!/usr/bin/env bash
# SimpleITK 2.5.7: a DICOM series whose slices have scales of their own is cut to whole numbers where the first slice has a whole one.
#
# Guess: the reader knows each slice's rescale slope, and the volume has a type that holds them all; positron emission tomography has one
# slope a slice by design, so that this is the usual case there, and a series reads the same from either end.
# Behaviour: each slice is scaled by its own slope, and the type of the volume is that of the first slice alone. With slope 1 on the first
# the volume is of 16-bit integers and all others are cut towards zero: uptakes of 1.5 and 0.75 are 1 and 0, without a warning. With 0.5 on
# the first the same slices are exact in double precision. So whether a volume is exact depends on its lowest slice, and differs between
# cases of one data set; converted files (NIfTI, NRRD) keep what was cut.
# Output seen:
#   slopes 1, 0.5, 0.25: 16-bit signed integer 3 1 0, meant 3 1.5 0.75
#   slopes 0.5, 1, 0.25: 64-bit float 1.5 3 0.75, meant 1.5 3 0.75
#   slopes 2, 1.5, 1: 32-bit signed integer 6 4 3, meant 6 4.5 3
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - > seen <<'PY'
import os

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid


def write(folder, slopes):
    """Slices one behind the other, each full of the stored value 3."""
    os.mkdir(folder)
    same = {name: generate_uid() for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}
    for height, slope in enumerate(slopes):
        image, meta = Dataset(), FileMetaDataset()
        image.file_meta = meta
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
        values = same | {"Modality": "PT", "InstanceNumber": height + 1, "Rows": 4, "Columns": 4, "SamplesPerPixel": 1}
        values |= {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, height]}
        values |= {"PixelSpacing": [1, 1], "SliceThickness": 1, "PhotometricInterpretation": "MONOCHROME2"}
        values |= {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
        values |= {"RescaleSlope": slope, "RescaleIntercept": 0, "PixelData": np.full((4, 4), 3, np.int16).tobytes()}
        for name, value in values.items():
            setattr(image, name, value)
        image.save_as(f"{folder}/{height}.dcm", enforce_file_format=True)


for number, slopes in enumerate([(1, 0.5, 0.25), (0.5, 1, 0.25), (2, 1.5, 1)]):
    write(str(number), slopes)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(number)))
    image = reader.Execute()
    read = " ".join(f"{value:g}" for value in sitk.GetArrayFromImage(image)[:, 0, 0])
    meant = " ".join(f"{3 * slope:g}" for slope in slopes)
    print(f"slopes {', '.join(f'{s:g}' for s in slopes)}: {image.GetPixelIDTypeAsString()} {read}, meant {meant}")
PY
cat seen
diff seen - <<'SEEN'
slopes 1, 0.5, 0.25: 16-bit signed integer 3 1 0, meant 3 1.5 0.75
slopes 0.5, 1, 0.25: 64-bit float 1.5 3 0.75, meant 1.5 3 0.75
slopes 2, 1.5, 1: 32-bit signed integer 6 4 3, meant 6 4.5 3
SEEN
