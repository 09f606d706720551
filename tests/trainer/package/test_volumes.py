"""A package for volumes runs without torch, and gives the labels of its weights on the grids of the files."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.trainer.package.drawn_packages import changed, oblique
from trainer.data.volumes.geometry import Grid, NativeGrid
from trainer.evaluation.native_slices import native_slices
from trainer.evaluation.sliding_window import SlidingWindow
from trainer.package import inference
from trainer.package.command import Wish, package
from trainer.package.volume_slices import slices_of_case

nibabel = pytest.importorskip("nibabel")


def dice(one, other):
    return 2 * (one & other).sum() / max((one.sum() + other.sum()), 1)


class TestPackage:
    def test_lower_precision_is_scored_over_cases_beside_float32(self, place, trainer):
        words = ("--cache", place / "cache", "--precision", "int8", "--margin", "1")
        code, printed, _ = trainer("package", place / "regions.safetensors", place / "int8", *words)
        assert code == 0
        assert "on 2 validation cases" in printed
        shipped = json.loads((place / "int8" / inference.PARITY).read_text())["shipped"]
        assert (shipped["precision"], shipped["unit"], shipped["cases"]) == ("int8", "case", 2)
        assert shipped["calibrated_on"] > 1
        assert shipped["bytes"] < shipped["bytes_float32"]
        assert shipped["total"] == json.loads((place / "regions" / inference.PARITY).read_text())["voxels"]

    def test_preprocessing_names_every_step_and_files_are_checked(self, place):
        p = json.loads((place / "classes" / inference.PREPROCESSING).read_text())
        assert p["schema"] == 4
        assert (p["orientation"], p["spacing"], p["window"]) == ("RAS", [1.2, 1.2, 2.5], [-1, 4])
        assert (p["crop"], p["zscore"], p["patch"], p["overlap"]) == ("positive", "volume", [16, 16, 8], 0.5)
        assert (p["classes"], p["values"], p["threshold"]) == (["ground", "ball", "core"], [0, 1, 2], None)
        assert sorted(f.name for f in (place / "classes").iterdir()) == sorted((*inference.FILES, inference.SUMS))
        p = json.loads((place / "regions" / inference.PREPROCESSING).read_text())
        assert (p["regions"], p["classes"], p["threshold"], p["weights"]) == (True, ["whole", "core"], 0.5, "gaussian")
        assert "values" not in p

    def test_regions_have_thresholds_of_their_own(self, place, tmp_path, trainer):
        wish = Wish(
            place / "regions.safetensors", tmp_path / "ship", place / "cache", (0.4, 0.6), threshold_from="validation"
        )
        assert package(wish)
        p = json.loads((tmp_path / "ship" / inference.PREPROCESSING).read_text())
        assert (p["schema"], p["threshold"], p["thresholds"]) == (6, None, [0.4, 0.6])
        assert "is above its own: whole 0.4, core 0.6 (chosen on" in (tmp_path / "ship" / inference.CARD).read_text()
        shutil.copy(place / "new" / "a.nii.gz", tmp_path)
        code, _, _ = trainer("predict", tmp_path / "ship", tmp_path, "-o", tmp_path / "own")
        assert code == 0
        for name, threshold in (("whole", 0.4), ("core", 0.6)):
            code, _, _ = trainer(
                "predict", place / "regions.safetensors", tmp_path, "-o", tmp_path / name, "--threshold", threshold
            )
            assert code == 0
            ours, theirs = (
                np.asarray(nibabel.load(folder / f"a_{name}.nii.gz").dataobj)
                for folder in (tmp_path / "own", tmp_path / name)
            )
            assert (ours != theirs).sum() <= ours.size / 10_000
            assert 0 < ours.sum() < ours.size
        code, _, _ = trainer("predict", tmp_path / "ship", tmp_path, "-o", tmp_path / "one", "--threshold", 0.6)
        assert code == 0
        one, core = (nibabel.load(tmp_path / folder / "a_core.nii.gz").get_fdata() for folder in ("one", "own"))
        assert np.array_equal(one, core)

    def test_parity_is_of_dice_and_voxels_and_the_card_says_it(self, place):
        parity = json.loads((place / "classes" / inference.PARITY).read_text())
        assert parity["cases"] == 2
        assert parity["voxels"] == 2 * 18 * 16 * 12
        assert parity["dice"] >= 0.999
        assert set(parity["dice_by_class"]) == {"ball", "core"}
        assert parity["differing_voxels"] <= parity["voxels"] / 10_000
        card = (place / "classes" / inference.CARD).read_text()
        for words in ("Segments volumes into", "patches of 16 x 16 x 8 voxels", "Dice between both", "Other scanners"):
            assert words in card
        for words in ("validation cases that also chose", "| part | cases |", "likeliest class of each voxel counts"):
            assert words in card

    def test_an_old_reader_is_not_given_a_package_that_it_cannot_read(self, place, tmp_path, trainer):
        """A schema beyond the known ones is named."""
        copy = changed(place / "classes", tmp_path, {"schema": 5})
        code, _, error = trainer("predict", copy, place / "new", "-o", tmp_path / "out")
        assert code == 2
        assert "schema" in error
        assert len(error.splitlines()) == 1


class TestPredict:
    @pytest.mark.parametrize(("kind", "names"), [("classes", ["a"]), ("regions", ["a_core", "a_whole"])])
    def test_an_oblique_case_gets_the_labels_of_torch_on_its_own_grid(self, place, tmp_path, trainer, kind, names):
        code, out, _ = trainer("predict", place / kind, place / "new", "-o", tmp_path / "package")
        assert code == 0
        assert "label file" in out
        assert trainer("predict", place / f"{kind}.safetensors", place / "new", "-o", tmp_path / "torch")[0] == 0
        for folder in ("package", "torch"):
            assert sorted(f.name for f in (tmp_path / folder).iterdir()) == [f"{name}.nii.gz" for name in names]
        image = nibabel.load(place / "new/a.nii.gz")
        for name in names:
            made, wanted = (nibabel.load(tmp_path / by / f"{name}.nii.gz") for by in ("package", "torch"))
            np.testing.assert_allclose(made.affine, image.affine)
            assert made.shape == image.shape
            ours, theirs = (np.asarray(file.dataobj) for file in (made, wanted))
            assert len(np.unique(ours)) > 1
            assert all(dice(ours == label, theirs == label) > 0.999 for label in np.unique(theirs))

    def test_neither_torch_nor_monai_is_imported(self, place, series, tmp_path):
        pytest.importorskip("highdicom")
        shutil.copytree(place / "new", tmp_path / "new")
        shutil.copytree(series / "p1/ct", tmp_path / "new/ct")
        code = (
            "import sys; from trainer.__main__ import main\n"
            f"main(['predict', *{[str(place / 'classes'), str(tmp_path / 'new'), '-o', str(tmp_path / 'out')]!r}])\n"
            "assert not {'torch', 'monai'} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "1 label file and 1 DICOM segmentation on the grids" in done.stdout
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "ct.dcm"]

    def test_a_damaged_case_is_named_and_the_others_are_done(self, place, tmp_path, trainer):
        shutil.copytree(place / "new", tmp_path / "new")
        (tmp_path / "new/b.nii.gz").write_bytes((place / "new/a.nii.gz").read_bytes()[:200])
        code, out, error = trainer("predict", place / "classes", tmp_path / "new", "-o", tmp_path / "out")
        assert code == 2
        assert "1 label file on the grids" in out
        assert "b.nii.gz" in error
        assert len(error.splitlines()) == 1

    @pytest.mark.parametrize(
        ("kind", "words", "text"),
        [
            ("classes", ("--threshold", "0.4"), "--threshold 0.4: the package has 3 classes; leave it out"),
            ("classes", ("--precision", "bf16"), "--precision bf16: a package says itself how it computes"),
            ("regions", ("--threshold", "1"), "--threshold 1: a probability between 0 and 1"),
        ],
    )
    def test_a_wrong_flag_is_one_line(self, place, tmp_path, trainer, kind, words, text):
        code, _, error = trainer("predict", place / kind, place / "new", "-o", tmp_path / "out", *words)
        assert code == 2
        assert text in error
        assert len(error.splitlines()) == 1

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"schema": 12}, "schema = 12: newer than this program knows (1 to 9); update kd-search"),
            ({"patch": [8, 16, 16]}, "the network takes (1, 16, 16, 8)"),
            ({"channels": 2}, "the network takes (1, 16, 16, 8)"),
            ({"overlap": 1.0}, "overlap"),
            ({"spacing": [1, 0, 1]}, "spacing"),
            ({"window": [3, 3]}, "window"),
            ({"values": [0, 1]}, "values"),
            ({"classes": ["ground", "../ball", "core"]}, "classes"),
            ({"colours": ["#000000"]}, "colours"),
            ({"threshold": 0.5}, "threshold"),
        ],
    )
    def test_what_a_foreign_package_says_is_checked_before_a_case_is_read(
        self, place, tmp_path, trainer, changes, text
    ):
        copy = changed(place / "classes", tmp_path, changes)
        code, _, error = trainer("predict", copy, place / "new", "-o", tmp_path / "out")
        assert code == 2
        assert text in error
        assert len(error.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_a_folder_without_volumes_is_one_line(self, place, tmp_path, trainer):
        (tmp_path / "empty").mkdir()
        for folder, text in (
            (tmp_path / "empty", "holds no volume"),
            (tmp_path / "none", "no such folder"),
            (place / "new/a.nii.gz", "is a file; give its folder"),
        ):
            code, _, error = trainer("predict", place / "classes", folder, "-o", tmp_path / "out")
            assert code == 2
            assert text in error
            assert len(error.splitlines()) == 1


@pytest.mark.parametrize("size", [(8, 6, 4), (24, 24, 24)])
@pytest.mark.parametrize(("weighting", "tiling"), [("constant", "clamped"), ("gaussian", "spread")])
@pytest.mark.parametrize("toward", ["RAS", "stored"])
def test_slices_of_numpy_are_those_of_torch(size, weighting, tiling, toward):
    """Also where a window is larger than the case, and where a crop leaves native slices out."""
    way = NativeGrid.unchanged(Grid.of((13, 11, 9), oblique((1, 1, 2)))).turned(toward)
    way = way.respaced((0.8, 1.1, 1.7), "first-centre").cut((1, 2, 2), (12, 7, 6))
    image = np.random.default_rng(5).normal(size=(2, *way.shape)).astype(np.float32)

    def predict(windows):
        """Three classes that depend on the place in the window, too."""
        ramp = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None, None]
        return np.stack([windows[:, 0], windows[:, 1] * ramp, windows.sum(1) + ramp], axis=1)

    def predict_tensor(windows):
        return torch.from_numpy(predict(windows.numpy()))

    window = SlidingWindow(size, 0.5, weighting, tiling)
    wanted = native_slices(image, way, window, predict_tensor, torch.device("cpu"))
    made = slices_of_case(image, way, window, predict, ground=1)
    for (number, ours), (depth, theirs) in zip(made, wanted, strict=True):
        assert number == depth
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
