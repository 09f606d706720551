"""Cases prepared in nnU-Net's steps: its own values, and settings that cannot be meant."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from trainer.config import VolumeData
from trainer.data.volumes.prepare import case_files, made_case, prepare_cases
from trainer.data.volumes.recipes import recipe_of
from trainer.data.volumes.windows import WEIGHTS
from trainer.errors import DataError

nibabel = pytest.importorskip("nibabel")

CT = {"scheme": "CTNormalization", "low": 2.0, "high": 18.0, "mean": 9.0, "std": 4.0}
MASKED = {"scheme": "ZScoreNormalization", "masked": True}
CLASSES = [{"name": "background", "value": 0}, {"name": "liver", "value": 1}]


def settings(**changes: object) -> VolumeData:
    values: dict[str, object] = {
        "name": "volumes",
        "root": ".",
        "split": "s.csv",
        "classes": CLASSES,
        "channels": ["0000", "0001"],
        "recipe": "nnunet",
        "spacing": [0.8, 1.0, 1.0],
        "schemes": [MASKED, CT],
    }
    return VolumeData.model_validate(values | changes)


def drawn(folder: Path, spacing: tuple[float, float, float], *, empty: bool = False) -> tuple[str, Path, Path]:
    """A case of two equal channels whose first plane is 0, and one voxel inside, which is inside all the same."""
    x, y, z = np.meshgrid(np.arange(6), np.arange(5), np.arange(4), indexing="ij")
    image = ((7 * x * y + 13 * y * z + 5 * z * x) % 23).astype(np.float32) * (not empty)
    image[0], image[3, 2, 2] = 0, 0
    affine = np.diag([*spacing, 1.0])
    for channel in ("0000", "0001"):
        nibabel.save(nibabel.Nifti1Image(image, affine), folder / f"case_{channel}.nii")
    labels = (x > 2).astype(np.uint8)
    labels[0, 0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "case.nii")
    return "case", folder / "case_{channel}.nii", folder / "case.nii"


@pytest.mark.parametrize(
    ("spacing", "wanted", "shape", "inner", "last", "sums"),
    [
        (
            (1.0, 1.0, 1.5),
            (0.8, 1.0, 1.0),
            (6, 5, 6),
            (0.36709731817245483, 1.0436400175094604),
            (-0.892273485660553, -0.7814127802848816),
            (-0.7746166680008173, 66.38482414186001),
        ),
        (
            (1.0, 1.0, 5.0),
            (0.75, 1.25, 2.0),
            (7, 4, 10),
            (0.8349816799163818, 1.4811326265335083),
            (-0.854225754737854, -0.7478674650192261),
            (-0.29428025521337986, 103.91673153545707),
        ),
    ],
    ids=["all axes together", "z by itself"],
)
def test_a_case_is_what_nnunetv2_2_8_1_makes_of_it(tmp_path, spacing, wanted, shape, inner, last, sums):
    config = settings(spacing=wanted)
    files = case_files([drawn(tmp_path, spacing)], config.channels)
    case = prepare_cases(config, files, cache=tmp_path / "cache").cases[0]
    assert case.image.shape == (2, *shape)
    assert case.image[:, 1, 2, 1] == pytest.approx(inner, abs=1e-6)
    assert case.image[:, -1, 0, -1] == pytest.approx(last, abs=1e-6)
    assert case.image.sum((1, 2, 3), dtype=np.float64) == pytest.approx(sums, abs=1e-4)
    # Without its first plane; the outer edges are those of what was kept.
    cut = np.array([5, 5, 4]) * spacing
    assert np.allclose(np.array(case.way.spacing) * shape, cut)
    assert np.allclose(case.grid.matrix[0, 3], 0.5 * spacing[0] + 0.5 * case.way.spacing[0])
    assert case.label.shape == shape
    # Along an axis that is resampled by itself the nearest plane counts on the way back, too.
    assert case.way.apart == (2 if spacing[2] == 5.0 else None)
    assert bool((case.way.positions(2)[1] % 1 == 0).all()) == (spacing[2] == 5.0)
    assert (
        case.way == made_case("case", [tmp_path / f"case_{c}.nii" for c in config.channels], recipe_of(config), 2).way
    )
    assert case.remarks == ("1 labelled voxel of 61 lie outside of the crop",)


def test_nnunets_gaussian_has_its_middle_at_half_the_side_and_no_floor():
    weights = WEIGHTS["nnunet"]((8, 7, 6))
    assert weights[4, 3, 3] == weights.max() == 10.0
    assert weights[3, 3, 3] == 6.06640625
    assert weights[1, 2, 3] == 0.057830810546875
    assert weights.min() == weights[0, 0, 0] == np.float32(5.960464477539063e-08)
    assert weights.sum(dtype=np.float64) == pytest.approx(103.31887942552567, abs=1e-9)


def test_a_volume_of_zeros_is_named(tmp_path):
    config = settings()
    files = case_files([drawn(tmp_path, (1.0, 1.0, 1.5), empty=True)], config.channels)
    with pytest.raises(DataError, match=r"case_0000\.nii: no voxel of the image is other than 0"):
        prepare_cases(config, files, cache=tmp_path / "cache")


def test_the_names_of_cases_that_know_no_scheme_stay():
    assert "schemes" not in recipe_of(settings(recipe="msd", schemes=[])).stated()
    assert recipe_of(settings()).stated()["schemes"][1]["mean"] == 9.0


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"zscore": "volume"}, 'zscore: recipe = "nnunet" fixes it'),
        ({"spacing": "native"}, 'spacing: recipe = "nnunet" needs that of the plans'),
        ({"schemes": [CT]}, "schemes: 1 for 2 channels"),
        ({"recipe": "msd"}, "schemes: recipe = 'msd' takes none"),
        ({"schemes": [CT, {"scheme": "CTNormalization", "low": 1.0}]}, "CTNormalization has no high"),
        ({"schemes": [CT, {**CT, "std": 0.0}]}, "std above 0"),
        ({"schemes": [CT, {"scheme": "NoNormalization", "mean": 1.0}]}, "NoNormalization takes no low"),
        ({"schemes": [CT, {**CT, "masked": True}]}, "CTNormalization knows no mask"),
        ({"schemes": [CT, {"scheme": "MyNormalization"}]}, "Input should be 'CTNormalization'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, line):
    with pytest.raises(ValidationError, match=line):
        settings(**changes)
