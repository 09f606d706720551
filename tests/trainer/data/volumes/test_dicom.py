"""A DICOM series is the volume that its headers describe, or one line says why it is none."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.dicom_series import draw_series
from trainer.data.volumes.dicom import is_dicom, open_series, read_series, series_folders
from trainer.errors import DataError

pydicom = pytest.importorskip("pydicom")
SHAPE = (6, 5, 4)
MM = (0.5, 2.0, 3.0)


def turned(mm=MM):
    """A right-handed affine of these spacings, turned around two axes and off centre."""
    a, b = np.deg2rad(20), np.deg2rad(30)
    around_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    around_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = around_z @ around_x @ np.diag(mm)
    affine[:3, 3] = (31, -17.5, 8)
    return affine


def drawn(folder, **changes):
    volume = np.random.default_rng(4).uniform(0, 5, SHAPE)
    return draw_series(folder, volume, turned(), **changes)


def refusal(folder, picked=()):
    with pytest.raises(DataError) as caught:
        read_series([folder], 1, picked)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert "Drawn" not in text  # nobody's name leaves a file
    return text


def test_a_series_is_ordered_by_place_and_scaled_by_slice(tmp_path):
    held = drawn(tmp_path / "ct")
    (channel,), series = read_series([tmp_path / "ct"], 1)
    assert np.array_equal(channel, held)
    np.testing.assert_allclose(series.grid.matrix, turned(), atol=1e-6)
    assert series.grid.shape == SHAPE
    assert series.grid.spacing == pytest.approx(MM)
    assert [int(path.name) + 1 for path in series.files] == [header.InstanceNumber for header in series.headers]


REAL = Path(pydicom.__file__).parent / "data/test_files/dicomdirtests"
"""Series of scanners that pydicom brings with it, cut to 16 x 16 pixels."""


@pytest.mark.parametrize("name", ["drawn", "98892001/CT5N"])
def test_highdicom_has_the_same_voxels_at_the_same_places(tmp_path, name):
    highdicom = pytest.importorskip("highdicom")
    folder = REAL / name
    if name == "drawn":
        drawn(tmp_path)
        folder = tmp_path
    (channel,), series = read_series([folder], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values in the scanner's headers
        volume = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in series.files[::-1]])
    ours = np.diag([-1.0, -1, 1, 1]) @ series.grid.matrix
    for index in ((0, 0, 0), (5, 1, 2), (2, 4, 3)):
        theirs = np.rint(np.linalg.inv(volume.affine) @ ours @ [*index, 1])[:3].astype(int)
        assert volume.array[tuple(theirs)] == pytest.approx(channel[index], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("77654033/CR1", "has no ImagePositionPatient (Computed Radiography Image)"),
        ("77654033/CT2", "161 slices missing in the series"),
        ("98892001/CT2N", "slices of different orientations in one series"),
        ("98892003/MR1", "holds 3 series; pick one with --series UID"),
        ("TINY_ALPHA/PT000000/ST000000/SE000000", "a DICOM object without an image (CT Image)"),
    ],
)
def test_what_scanners_made_and_is_no_volume_is_one_line(name, text):
    assert text in refusal(REAL / name)


def test_compressed_slices_are_read(tmp_path):
    held = drawn(tmp_path / "ct", change=lambda own, at: own.compress(pydicom.uid.RLELossless))
    assert np.array_equal(read_series([tmp_path / "ct"], 1)[0][0], held)


def test_one_of_several_series_is_picked_by_its_uid(tmp_path):
    first, second = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    held = drawn(tmp_path / "ct", uid=first)
    draw_series(tmp_path / "other", np.zeros(SHAPE), turned(), uid=second)
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / "ct" / f"second{path.name}")
    text = refusal(tmp_path / "ct")
    for part in ("2 series", "--series UID", f"{first} (CT number 3, 4 images)", second):
        assert part in text
    assert np.array_equal(read_series([tmp_path / "ct"], 1, [first])[0][0], held)
    assert "holds no series 1.2.3" in refusal(tmp_path / "ct", ["1.2.3"])


def leave_out(number):
    return lambda own, at: at != number


def put(only=None, **values):
    """Changes the slices, or the one with this number."""

    def change(own, at):
        for name, value in values.items() if only in (None, at) else ():
            if value is None:
                delattr(own, name)
            else:
                setattr(own, name, value)

    return change


def moved(by, only=None):
    """Slices of this number, or all by as much more as they lie further, in another place."""

    def change(own, at):
        way = np.array(by) * (at if only is None else at == only)
        place = np.array(own.ImagePositionPatient, float) + way
        own.ImagePositionPatient = [str(round(value, 6)) for value in place]

    return change


def in_frames(own, at):
    own.NumberOfFrames = 2
    own.PixelData += own.PixelData


def as_report(own, at):
    for name in ("Rows", "Columns", "PixelData"):
        delattr(own, name)
    own.SOPClassUID = pydicom.uid.BasicTextSRStorage


def as_secondary(own, at):
    own.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    del own.ImagePositionPatient


def compressed(syntax):
    def change(own, at):
        own.file_meta.TransferSyntaxUID = syntax
        own.PixelData = pydicom.encaps.encapsulate([own.PixelData])
        own["PixelData"].VR = "OB"

    return change


NORMAL = turned()[:3, 2] / MM[2] * (-1, -1, 1)
"""Of the slices, as DICOM counts."""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (leave_out(2), "1 slice missing in the series"),
        (moved(-3 * NORMAL, only=2), "1 position twice in one series"),
        (moved(0.9 * NORMAL, only=2), "do not lie in equal steps: from 2.1 to 3.9 mm"),
        (moved((0.6, 0, 0)), "as with a gantry tilt of"),
        (put(only=1, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), "slices of different orientations in one series"),
        (put(only=1, PixelSpacing=[2, 0.6]), "slices of different pixel spacings in one series"),
        (put(only=1, Rows=4), "slices of different sizes in one series"),
        (put(only=1, FrameOfReferenceUID="1.2.3"), "slices of different frames of reference"),
        (put(PixelSpacing=[2, 0]), "the spacing is 0 along an axis"),
        (put(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), "not of two directions at right angles"),
        (put(SamplesPerPixel=3), "a colour picture (CT Image)"),
        (put(only=1, RescaleSlope="0"), "its rescale slope is 0"),
        (put(RescaleSlope=float("1e300")), "no numbers (nan or inf)"),
        (in_frames, "CT Image with several frames in one file"),
        (as_report, "a DICOM object without an image (Basic Text SR); move it elsewhere"),
        (as_secondary, "has no ImagePositionPatient (Secondary Capture Image)"),
        (put(PixelData=b"\0\0"), "damaged or no DICOM file"),
        (compressed(pydicom.uid.JPEGLosslessSV1), "needs a decoder: pip install pylibjpeg"),
        (compressed(pydicom.uid.MPEG2MPML), "which pydicom does not read"),
        (lambda own, at: at == 0, "is one slice and no volume"),
    ],
)
def test_what_is_no_volume_is_one_line(tmp_path, change, text):
    drawn(tmp_path / "ct", change=change)
    assert text in refusal(tmp_path / "ct")


def test_other_files_beside_a_series_are_named(tmp_path):
    drawn(tmp_path / "ct")
    (tmp_path / "ct/notes.txt").write_text("of the scanner")
    assert "notes.txt: no DICOM file among those of a series; move it elsewhere" in refusal(tmp_path / "ct")
    (tmp_path / "ct/notes.txt").rename(tmp_path / "ct/more.dcm")
    assert "more.dcm: no DICOM file: DICM does not stand" in refusal(tmp_path / "ct")


def test_folders_of_series_are_seen_at_any_depth_and_files_by_what_they_begin_with(tmp_path):
    drawn(tmp_path / "p1/ct")
    drawn(tmp_path / "p2")
    drawn(tmp_path / ".hidden")
    (tmp_path / "readme.txt").write_text("x" * 200)
    shutil.copy(REAL / "DICOMDIR", tmp_path)  # as on the discs of hospitals
    assert [path.relative_to(tmp_path).as_posix() for path in series_folders(tmp_path)] == ["p1/ct", "p2"]
    assert all(is_dicom(path) for path in (tmp_path / "p2").iterdir())
    assert not is_dicom(tmp_path / "readme.txt")


def test_channels_are_a_folder_each_on_one_grid(tmp_path):
    held = [drawn(tmp_path / name) for name in ("a_t1", "a_flair")]
    arrays, _ = read_series([tmp_path / "a_t1", tmp_path / "a_flair"], ("t1", "flair"))
    assert all(np.array_equal(*pair) for pair in zip(arrays, held, strict=True))
    with pytest.raises(DataError, match="a series is one channel, and the network takes 2"):
        read_series([tmp_path / "a_t1"], 2)
    drawn(tmp_path / "b_flair", change=put(PixelSpacing=[2, 0.7]))
    with pytest.raises(DataError, match="lies on another grid"):
        read_series([tmp_path / "a_t1", tmp_path / "b_flair"], ("t1", "flair"))


def test_headers_are_enough_to_open_a_series(tmp_path):
    """The pixels of a series that is refused later are not read for nothing."""
    drawn(tmp_path / "ct", change=put(PixelData=b"\0\0"))
    assert open_series(tmp_path / "ct").grid.shape == SHAPE
