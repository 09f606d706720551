"""DICOM series that tests draw: a file a slice, shuffled, each with a rescale slope of its own."""

from pathlib import Path

import numpy as np
import pytest


def draw_series(folder: Path, volume, affine, *, uid=None, study=None, change=None, seed=0):
    """Write a volume (X, Y, Z) as CT slices and return it as they hold it, (X, Y, Z) float32.

    affine: RAS+ with a right-handed matrix. change: called with each data set and its slice's number before it is
    written; False leaves the slice out.
    """
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    turn = (lps[:3, :2] / spacing[:2]).T.ravel()
    uid, study, frame = uid or generate_uid(), study or generate_uid(), generate_uid()
    held = np.empty(volume.shape, np.float32)
    numbers = np.random.default_rng(seed).permutation(volume.shape[2])
    for at, number in enumerate(numbers):
        slope, intercept = 0.001 * (1 + at % 3), -3.0
        stored = np.rint((volume[:, :, at] - intercept) / slope).astype(np.uint16)
        held[:, :, at] = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
        instance = generate_uid()
        own = pydicom.Dataset()
        own.file_meta = pydicom.dataset.FileMetaDataset()
        own.file_meta.MediaStorageSOPClassUID = own.SOPClassUID = CTImageStorage
        own.file_meta.MediaStorageSOPInstanceUID = own.SOPInstanceUID = instance
        own.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        own.StudyInstanceUID, own.SeriesInstanceUID, own.FrameOfReferenceUID = study, uid, frame
        own.Modality, own.SeriesNumber, own.PatientID, own.PatientName = "CT", 3, "drawn", "Drawn^Case"
        # Not in the order of the slices: scanners that interleave, or count from the head, are of this kind.
        own.InstanceNumber = int(number) + 1
        own.Rows, own.Columns = volume.shape[1], volume.shape[0]
        own.PixelSpacing = [_text(spacing[1]), _text(spacing[0])]
        own.SliceThickness = _text(spacing[2] / 2)
        own.ImageOrientationPatient = [_text(value) for value in turn]
        own.ImagePositionPatient = [_text(value) for value in (lps @ [0, 0, at, 1])[:3]]
        own.SamplesPerPixel, own.PhotometricInterpretation = 1, "MONOCHROME2"
        own.BitsAllocated = own.BitsStored = 16
        own.HighBit, own.PixelRepresentation = 15, 0
        own.RescaleSlope, own.RescaleIntercept = _text(slope), _text(intercept)
        own.PixelData = stored.T.tobytes()
        if change is None or change(own, at) is not False:
            own.save_as(folder / f"{number:04}", enforce_file_format=True)
    return held


def _text(value):
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))
