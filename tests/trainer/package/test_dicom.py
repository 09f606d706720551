"""A DICOM series through a package to a DICOM SEG: voxel by voxel what a NIfTI file of the same voxels gives."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.package.drawn_packages import VALUED, changed, oblique
from tests.trainer.volume_files import run
from trainer.__main__ import main
from trainer.cli.entry import guard
from trainer.data.volumes.dicom import open_series
from trainer.package import inference

nibabel = pytest.importorskip("nibabel")
CODES = [
    None,
    {"scheme": "SCT", "value": "10200004", "meaning": "Liver"},
    {
        "scheme": "SCT",
        "value": "108369006",
        "meaning": "Neoplasm",
        "category": {"scheme": "SCT", "value": "49755003", "meaning": "Morphologically Altered Structure"},
    },
]


@pytest.fixture(scope="module")
def labels(place, series):
    """Of classes and of regions, by the way of NIfTI; (X, Y, Z) by file."""
    for kind in ("classes", "regions"):
        words = ("predict", place / kind, place / "twin", "-o", place / f"labels_{kind}")
        assert guard(lambda words=words: main(list(map(str, words)))) == 0
    files = [*(place / "labels_classes").iterdir(), *(place / "labels_regions").iterdir()]
    return {file.name: np.asarray(nibabel.load(file).dataobj) for file in files}


class TestDicom:
    """A series gets the labels that a NIfTI file of the same voxels gets."""

    def test_classes_become_segments_with_their_codes(self, place, series, labels, tmp_path, trainer):
        highdicom = pytest.importorskip("highdicom")
        coded = changed(place / "classes", tmp_path, {"schema": 7, "codes": CODES})
        code, out, err = trainer("predict", coded, series, "-o", tmp_path / "out")
        assert (code, err) == (0, "")
        assert "1 DICOM segmentation on the grids of the images" in out
        assert "without a code" not in out
        segmentation = highdicom.seg.segread(tmp_path / "out/p1/ct.dcm")
        pixels, headers = by_source(segmentation, series / "p1/ct", combine_segments=True)
        assert set(np.unique(pixels)) == {0, 1, 2}
        assert np.array_equal(pixels, labels["p1.nii.gz"].T)
        ball, core = (segmentation.get_segment_description(number) for number in (1, 2))
        assert (ball.segment_label, ball.segmented_property_type.meaning) == ("ball", "Liver")
        assert ball.segmented_property_category.value == "123037004"
        assert (core.segmented_property_type.value, core.segmented_property_category.value) == ("108369006", "49755003")
        (algorithm,) = ball.algorithm_identification
        assert (algorithm.AlgorithmName, ball.algorithm_type.value) == ("kd-search", "AUTOMATIC")
        (sums,) = (line for line in (coded / inference.SUMS).read_text().splitlines() if "network.onnx" in line)
        assert segmentation.DeviceSerialNumber == sums.split()[0]
        for name in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
            assert segmentation[name].value == headers[0][name].value
        assert segmentation.SeriesInstanceUID != headers[0].SeriesInstanceUID

    def test_regions_overlap_and_stand_in_a_private_scheme(self, place, series, labels, tmp_path, trainer):
        highdicom = pytest.importorskip("highdicom")
        code, out, _ = trainer("predict", place / "regions", series / "p1/ct", "-o", tmp_path / "out")
        assert code == 0
        assert "without a code: whole, core; they stand in the private scheme 99KDSEARCH" in out
        segmentation = highdicom.seg.segread(tmp_path / "out/ct.dcm")
        pixels, _ = by_source(segmentation, series / "p1/ct")
        for at, name in enumerate(("whole", "core")):
            assert np.array_equal(pixels[..., at], labels[f"p1_{name}.nii.gz"].T)
            kind = segmentation.get_segment_description(at + 1).segmented_property_type
            assert (kind.scheme_designator, kind.value, kind.meaning) == ("99KDSEARCH", name, name)

    def test_label_files_of_a_series_and_no_segmentation_of_a_file(self, place, series, labels, tmp_path, trainer):
        words = ("predict", place / "classes", series, "-o", tmp_path / "out", "--as", "nifti")
        assert trainer(*words)[0] == 0
        made = nibabel.load(tmp_path / "out/p1/ct.nii.gz")
        assert np.array_equal(np.asarray(made.dataobj), labels["p1.nii.gz"])
        np.testing.assert_allclose(made.affine, oblique(), atol=1e-5)
        words = ("predict", place / "classes", place / "new", "-o", tmp_path / "none", "--as", "dicom-seg")
        code, _, error = trainer(*words)
        assert code == 2
        assert "--as dicom-seg: a is no DICOM series" in error
        assert not (tmp_path / "none").exists()

    def test_a_bad_series_is_one_line_and_the_others_are_done(self, place, series, tmp_path, trainer):
        pytest.importorskip("highdicom")
        shutil.copytree(series, tmp_path / "series")
        shutil.copytree(series / "p1", tmp_path / "series/p2")
        open_series(tmp_path / "series/p2/ct").files[4].unlink()
        code, out, error = trainer("predict", place / "classes", tmp_path / "series", "-o", tmp_path / "out")
        assert code == 2
        assert "1 DICOM segmentation" in out
        assert "1 of 2 cases could not be read" in out
        assert "series/p2/ct: 1 slice missing in the series" in error
        assert len(error.splitlines()) == 1
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["p1"]

    def test_a_series_is_picked_by_its_uid(self, place, series, tmp_path, trainer):
        words = ("predict", place / "classes", series, "-o", tmp_path / "out", "--series", "1.2.3")
        code, _, error = trainer(*words)
        assert code == 2
        assert "--series 1.2.3: " in error
        assert "holds no such series; it has " in error
        words = ("predict", place / "classes", place / "new", "-o", tmp_path / "out", "--series", "1.2.3")
        assert "--series 1.2.3" in trainer(*words)[2]

    def test_what_a_package_says_of_codes_is_checked(self, place, series, tmp_path, trainer):
        copy = changed(place / "classes", tmp_path, {"schema": 7, "codes": CODES[:2]})
        code, _, error = trainer("predict", copy, series, "-o", tmp_path / "out")
        assert code == 2
        assert "codes: 2 of 3 classes; null where one has none" in error


def by_source(segmentation, folder, **how):
    """Pixels in the order of the slices' places, and the headers of these."""
    headers = open_series(folder).headers
    uids = [header.SOPInstanceUID for header in headers]
    return segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True, **how), headers


def test_codes_of_a_study_go_into_a_package_and_stay_out_of_its_identity():
    from search.spec.identity import run_document
    from trainer.package.volumes import codes_of, volume_preprocessing

    coded = [known | ({"code": code} if code else {}) for known, code in zip(VALUED, CODES, strict=True)]
    plain, named = (run(Path("root"), Path("split.csv"), data={"classes": each}) for each in (VALUED, coded))
    assert run_document(plain) == run_document(named)
    p = volume_preprocessing(named.data, thresholds=(), threshold_from="default", codes=codes_of(None, named.data))
    assert p.schema_ == 7
    assert json.loads(p.model_dump_json())["codes"] == CODES
    assert codes_of(named, plain.data) == p.codes
    later = volume_preprocessing(plain.data, thresholds=(), threshold_from="default", codes=codes_of(None, plain.data))
    assert (later.schema_, later.codes) == (4, None)
