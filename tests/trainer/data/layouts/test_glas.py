"""The patients of GlaS, which its published parts share."""

from pathlib import Path

import pytest

from trainer.data.layouts import DataFolder, recognised, surveyed

GRADES = """name, patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)
train_1, 1, benign, adenomatous
train_2, 1, benign, adenomatous
train_3, 2, malignant, moderately differentiated
testA_1, 2, malignant, moderately differentiated
"""


@pytest.mark.parametrize(
    ("names", "groups", "note"),
    [
        (
            ("train_1", "train_2", "train_3", "testA_1", "testA_2"),
            {"train_1": "train-1", "train_2": "train-1", "train_3": "train-2", "testA_1": "test-2", "testA_2": ""},
            "patients of Grade.csv are groups within train and within test, as published 1 patient of 2 in both; "
            "1 picture not in it",
        ),
        (
            ("train_1", "train_2", "train_3"),
            {"train_1": "1", "train_2": "1", "train_3": "2"},
            "patients of Grade.csv are the groups",
        ),
    ],
)
def test_patients_of_glas_are_groups_though_its_parts_share_them(
    tmp_path: Path, names: tuple[str, ...], groups: dict[str, str], note: str
) -> None:
    for name in names:
        (tmp_path / f"{name}.bmp").touch()
        (tmp_path / f"{name}_anno.bmp").touch()
    (tmp_path / "Grade.csv").write_text(GRADES)
    survey = surveyed(DataFolder(tmp_path, recognised(tmp_path)))
    assert {pair.image.stem: pair.group for pair in survey.pairs} == groups
    assert (survey.left, list(survey.notes)) == ([], [note])
