"""Label files for new volumes lie on the grids of their images and hold the values of the data's own label files."""

import re

import nibabel
import numpy as np
import pytest

from tests.trainer.volume_files import REGIONS, drawn_cases, run, volume, write
from trainer.__main__ import main
from trainer.engine.fit import fit

AFFINE = np.array([[0, -1.0, 0, 30], [1.2, 0, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])
VALUED = [{"name": "ground", "value": 0}, {"name": "ball", "value": 1}, {"name": "core", "value": [2, 7]}]


@pytest.fixture
def trainer(capsys):
    """Runs `python -m trainer` in this process: exit code, stdout and stderr."""

    def trainer(*texts):
        capsys.readouterr()
        code = main([str(text) for text in texts])
        return code, *capsys.readouterr()

    return trainer


@pytest.fixture
def trained(tmp_path):
    """Weights of a few epochs on drawn volumes."""

    def trained(**changes):
        split = drawn_cases(tmp_path / "data")
        settings = run(split.parent, split, epochs=14, optim={"lr": 0.02}, **changes)
        weights = tmp_path / "student.safetensors"
        for _ in fit(settings, cache=tmp_path / "cache", export=weights):
            pass
        return weights

    return trained


def test_labels_have_the_affine_of_the_image_and_the_values_of_the_classes(trained, tmp_path, trainer):
    weights = trained(data={"classes": VALUED})
    image, label = volume(50, (17, 19, 13))
    write(tmp_path / "new/a.nii.gz", image, AFFINE)
    write(tmp_path / "new/b.nii.gz", image[:12], AFFINE)
    (tmp_path / "new/c.nii.gz").write_bytes((tmp_path / "new/b.nii.gz").read_bytes()[:200])
    (tmp_path / "new/notes.txt").write_text("of the scanner")
    code, out, err = trainer("predict", weights, tmp_path / "new", "-o", tmp_path / "masks")
    assert code == 2
    assert "2 label files on the grids of the images" in out
    assert re.search(r"error: .*c\.nii\.gz.*damaged", err)
    assert "left out  1 .txt files" in err
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["a.nii.gz", "b.nii.gz"]
    made = nibabel.load(tmp_path / "masks/a.nii.gz")
    values = np.asarray(made.dataobj)
    assert values.shape == (17, 19, 13)
    assert values.dtype == np.uint8
    np.testing.assert_allclose(made.affine, AFFINE)
    assert set(np.unique(values)) <= {0, 1, 2}
    overlap = 2 * ((values > 0) & (label > 0)).sum() / ((values > 0).sum() + (label > 0).sum())
    assert overlap > 0.5


def test_regions_have_a_file_each_and_channels_are_found_by_their_names(trained, tmp_path, trainer):
    weights = trained(data={"classes": [], "regions": REGIONS}, losses={"bce-dice": {}})
    image, _ = volume(51)
    write(tmp_path / "new/a.nii.gz", image, AFFINE)
    assert trainer("predict", weights, tmp_path / "new", "-o", tmp_path / "masks")[0] == 0
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["a_core.nii.gz", "a_whole.nii.gz"]
    whole = np.asarray(nibabel.load(tmp_path / "masks/a_whole.nii.gz").dataobj)
    assert set(np.unique(whole)) == {0, 1}


def test_cases_of_named_channels_are_whole_or_left_out(tmp_path):
    from trainer.commands.predict_volumes import cases_in

    for name in ("p1_t1", "p1_flair", "p2-t1", "other"):
        (tmp_path / f"{name}.nii.gz").touch()
    cases, left = cases_in(tmp_path, ("flair", "t1"))
    assert [(case.name, [path.name for path in case.files]) for case in cases] == [
        ("p1", ["p1_flair.nii.gz", "p1_t1.nii.gz"])
    ]
    assert left == ["other.nii.gz: has none of the channels flair, t1 in its name", "p2: lacks the channel flair"]
