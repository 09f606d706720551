"""Known data sets of volumes from trees whose names stand here as their authors list them."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.native_grids import labels_back
from trainer.config import VolumeData
from trainer.data.classes import channels_of
from trainer.data.layouts import DataFolder, recognised, settings_of, surveyed
from trainer.data.splits.draw import Wish, check_rows, draw_split, kind_of, reading_for
from trainer.data.splits.folders import Survey
from trainer.data.splits.split import read_split, samples, write_split
from trainer.data.volumes.prepare import case_files, coding_for, prepare_cases
from trainer.errors import DataError

MSD = [
    *(f"imagesTr/hippocampus_{number:03d}.nii.gz" for number in (1, 3, 4, 6, 7)),
    *(f"labelsTr/hippocampus_{number:03d}.nii.gz" for number in (1, 3, 4, 6, 7)),
    "imagesTr/._hippocampus_001.nii.gz",
    "imagesTs/hippocampus_002.nii.gz",
]
BTCV = [
    *(f"imagesTr/img{number:04d}.nii.gz" for number in (1, 2, 3, 35, 36)),
    *(f"labelsTr/label{number:04d}.nii.gz" for number in (1, 2, 3, 35, 36)),
    "imagesTs/img0061.nii.gz",
]
BTCV_RAW = [
    *(f"RawData/Training/img/img{number:04d}.nii.gz" for number in (1, 2, 3, 35, 36)),
    *(f"RawData/Training/label/label{number:04d}.nii.gz" for number in (1, 2, 3, 35, 36)),
    "RawData/Testing/img/img0061.nii.gz",
]
WORD = [
    f"{kind}{which}/word_{number:04d}.nii.gz"
    for which, numbers in (("Tr", (2, 4, 5)), ("Val", (1, 6)), ("Ts", (3, 9)))
    for kind in ("images", "labels")
    for number in numbers
]
BRATS_2021 = [
    f"RSNA_ASNR_MICCAI_BraTS2021_TrainingData/BraTS2021_{number:05d}/BraTS2021_{number:05d}_{name}.nii.gz"
    for number in (0, 2, 3)
    for name in ("t1", "t1ce", "t2", "flair", "seg")
]
BRATS_2023 = [
    f"BraTS-GLI-{case}/BraTS-GLI-{case}-{name}.nii.gz"
    for case in ("00000-000", "00002-000", "00002-001", "00003-000")
    for name in ("t1n", "t1c", "t2w", "t2f", "seg")
]
NNUNET = [
    *(f"imagesTr/case_{number:03d}_{channel:04d}.nii.gz" for number in range(4) for channel in (0, 1)),
    *(f"labelsTr/case_{number:03d}.nii.gz" for number in range(4)),
    "imagesTs/case_009_0000.nii.gz",
]
PLAIN = [
    *(f"imagesTr/a{number}.nii" for number in range(3)),
    *(f"labelsTr/a{number}.nii" for number in range(3)),
]


def grown(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def listing(root: Path, name: str = "dataset.json", **table: object) -> Path:
    (root / name).write_text(json.dumps(table))
    return root


def entries(names: Iterable[str], image: str = "imagesTr/{}.nii.gz", label: str = "labelsTr/{}.nii.gz") -> list[object]:
    return [{"image": f"./{image.format(name)}", "label": f"./{label.format(name)}"} for name in names]


def msd(root: Path) -> Path:
    labels = {"0": "background", "1": "Anterior", "2": "Posterior part"}
    training = entries(f"hippocampus_{number:03d}" for number in (1, 3, 4, 6, 7))
    test = ["./imagesTs/hippocampus_002.nii.gz"]
    return listing(grown(root, MSD), labels=labels, modality={"0": "MRI"}, training=training, test=test)


def btcv(root: Path) -> Path:
    own = {"image": "imagesTr/img{}.nii.gz", "label": "labelsTr/label{}.nii.gz"}
    parts = {"training": entries(("0001", "0002", "0003"), **own), "validation": entries(("0035", "0036"), **own)}
    return listing(grown(root, BTCV), "dataset_0.json", modality={"0": "CT"}, numTraining=80, **parts)


def nnunet(root: Path, **more: object) -> Path:
    table: dict[str, object] = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "PZ": 1, "TZ": 2},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    return listing(grown(root, NNUNET), **(table | more))


TREES = {
    "MSD": (msd, "decathlon", {None: 5}, ["beside them: imagesTs"]),
    "BTCV, listed": (btcv, "btcv", {"train": 3, "validation": 2}, ["beside them: imagesTs"]),
    "BTCV, raw": (lambda root: grown(root, BTCV_RAW), "btcv", {None: 5}, []),
    "WORD": (lambda root: grown(root, WORD), "word", {"train": 3, "validation": 2, "test": 2}, []),
    "BraTS 2021": (lambda root: grown(root, BRATS_2021), "brats", {None: 3}, []),
    "BraTS 2023": (lambda root: grown(root, BRATS_2023), "brats", {None: 4}, []),
    "nnU-Net": (nnunet, "nnunet", {None: 4}, ["beside them: imagesTs"]),
    "folders": (lambda root: grown(root, PLAIN), "volume-folders", {None: 3}, []),
}


def taken(root: Path, choice: str | None = None) -> Survey:
    return surveyed(DataFolder(root, recognised(root, choice)))


@pytest.mark.parametrize("name", TREES)
def test_a_data_set_of_volumes_is_recognised_and_its_cases_are_taken(tmp_path: Path, name: str) -> None:
    make, known, counts, left = TREES[name]
    root = make(tmp_path / "Task")
    seen = recognised(root)
    assert seen is not None
    assert seen.name == known
    survey = taken(root)
    assert Counter(pair.part for pair in survey.pairs) == counts
    assert survey.left == left
    assert all(pair.mask.is_file() and pair.group for pair in survey.pairs)
    assert all(pair.image.is_file() or "{channel}" in pair.image.name for pair in survey.pairs)
    if known != "volume-folders":
        assert isinstance(kind_of(seen.layout.settings(root), "settings"), VolumeData)


def settings(root: Path) -> VolumeData:
    kind = kind_of(settings_of([DataFolder(root, recognised(root))]), "settings")
    assert isinstance(kind, VolumeData)
    return kind


def test_what_is_known_of_each_data_set_becomes_its_settings(tmp_path: Path) -> None:
    decathlon = settings(msd(tmp_path / "msd"))
    assert [(known.name, known.value) for known in decathlon.classes][2] == ("Posterior-part", 2)
    assert (decathlon.recipe, decathlon.channels, decathlon.window) == ("msd", 1, None)
    abdomen = settings(btcv(tmp_path / "btcv"))
    assert (len(abdomen.classes), abdomen.recipe) == (14, "btcv")
    assert [known.name for known in abdomen.classes][6] == "liver"
    assert abdomen.swap[0] == ("right-kidney", "left-kidney")
    word = settings(grown(tmp_path / "word", WORD))
    assert (len(word.classes), word.classes[1].name, word.recipe) == (17, "liver", "word")
    brain = settings(grown(tmp_path / "brats", BRATS_2021))
    assert brain.channels == ("flair", "t1ce", "t1", "t2")
    assert (brain.regions[0].name, brain.regions[0].value) == ("tumour-core", (1, 3, 4))
    nested = settings(nnunet(tmp_path / "regions", labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}))
    assert [(known.name, known.value) for known in nested.regions] == [("whole", (1, 2)), ("core", 2)]
    assert nested.ignore == 3
    assert settings(grown(tmp_path / "gli", BRATS_2023)).channels == ("t2f", "t1c", "t1n", "t2w")
    prostate = settings(nnunet(tmp_path / "nnunet"))
    assert (prostate.channels, prostate.classes[1].name) == (("0000", "0001"), "PZ")
    lungs = settings(nnunet(tmp_path / "ct", channel_names={"0": "CT"}, labels={"background": 0, "a": 1, "ignore": 2}))
    assert (lungs.channels, lungs.window, lungs.recipe, lungs.ignore) == (1, (-1000, 1000), "none", 2)


def test_patients_are_groups_and_channels_one_path(tmp_path: Path) -> None:
    old, new = taken(grown(tmp_path / "a", BRATS_2021)).pairs, taken(grown(tmp_path / "b", BRATS_2023)).pairs
    assert (old[1].group, old[1].image.name) == ("BraTS2021_00002", "BraTS2021_00002_{channel}.nii.gz")
    assert [pair.group for pair in new] == [f"BraTS-GLI-{patient:05d}" for patient in (0, 2, 2, 3)]
    assert new[2].image.name == "BraTS-GLI-00002-001-{channel}.nii.gz"
    assert taken(nnunet(tmp_path / "c")).pairs[3].image.name == "case_003_{channel}.nii.gz"
    one = taken(nnunet(tmp_path / "d", channel_names={"0": "CT"}))
    assert one.pairs[3].image.name == "case_003_0000.nii.gz"
    assert one.left[0].startswith("imagesTr: 4 files not of this data set (case_000_0001.nii.gz")
    assert [pair.group for pair in taken(btcv(tmp_path / "e")).pairs] == ["0001", "0002", "0003", "0035", "0036"]


def test_a_list_with_folds_divides_cases_and_a_listed_case_of_four_files_is_one_path(tmp_path: Path) -> None:
    root = grown(tmp_path, BRATS_2021)
    folder = "RSNA_ASNR_MICCAI_BraTS2021_TrainingData/BraTS2021_{0:05d}/BraTS2021_{0:05d}"
    training = [
        {
            "fold": at % 2,
            "image": [f"{folder.format(number)}_{name}.nii.gz" for name in ("flair", "t1ce", "t1", "t2")],
            "label": f"{folder.format(number)}_seg.nii.gz",
        }
        for at, number in enumerate((0, 2, 3))
    ]
    listing(root, "brats21_folds.json", training=training)
    assert [pair.part for pair in taken(root).pairs] == ["validation", "train", "validation"]
    as_list = taken(root, "decathlon")
    assert [pair.part for pair in as_list.pairs] == ["validation", "train", "validation"]
    assert as_list.pairs[0].image == root / f"{folder.format(0)}_{{channel}}.nii.gz"


def test_splits_of_nnunet_are_taken_over(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "nnUNet_raw" / "Dataset005_Prostate")
    there = tmp_path / "nnUNet_preprocessed" / "Dataset005_Prostate"
    there.mkdir(parents=True)
    cases = [f"case_{number:03d}" for number in range(4)]
    (there / "splits_final.json").write_text(
        json.dumps([{"train": cases[1:], "val": cases[:1]}, {"train": [], "val": []}])
    )
    survey = taken(root)
    assert [(pair.group, pair.part) for pair in survey.pairs] == [
        (case, "validation" if at == 0 else "train") for at, case in enumerate(cases)
    ]
    assert survey.left[0] == "splits_final.json: fold 0 is taken over, its val cases validate"
    grown(root, ["labelsTs/case_009.nii.gz", "imagesTs/case_009_0001.nii.gz"])
    assert Counter(pair.part for pair in taken(root).pairs) == {"train": 3, "validation": 1, "test": 1}
    (root / "splits_final.json").write_text(json.dumps([{"train": ["case_000", "case_777"], "val": ["case_001"]}]))
    with pytest.raises(DataError, match=r"not there: 1 case of it \(case_777\)"):
        taken(root)
    (root / "splits_final.json").write_text(json.dumps([{"train": ["case_000"], "val": ["case_000"]}]))
    with pytest.raises(DataError, match=r"1 case in train and in val"):
        taken(root)


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        (
            "MSD",
            "labelsTr/hippocampus_003.nii.gz",
            "not there: 1 file of the list (labelsTr/hippocampus_003.nii.gz)",
        ),
        ("BTCV, raw", "RawData/Training/label/label0035.nii.gz", "1 image without mask (img0035.nii.gz)"),
        ("WORD", "imagesVal/word_0006.nii.gz", "1 mask without image (word_0006.nii.gz)"),
        ("BraTS 2021", f"{BRATS_2021[1]}", "missing: 1 sequence (BraTS2021_00000: t1ce)"),
        ("BraTS 2023", f"{BRATS_2023[3]}", "missing: 1 sequence (BraTS-GLI-00000-000: t2f)"),
        ("nnU-Net", "imagesTr/case_002_0001.nii.gz", "missing: 1 channel (case_002_0001)"),
    ],
)
def test_a_missing_file_is_an_error(tmp_path: Path, name: str, lost: str, message: str) -> None:
    root = TREES[name][0](tmp_path)
    (root / lost).unlink()
    with pytest.raises(DataError, match=re.escape(message)):
        taken(root)


def test_cases_without_labels_are_left_out_and_two_kinds_of_brats_are_not_mixed(tmp_path: Path) -> None:
    root = grown(tmp_path, BRATS_2021)
    (root / BRATS_2021[4]).unlink()
    survey = taken(root)
    assert len(survey.pairs) == 2
    assert survey.left == ["1 case without labels (BraTS2021_00000)"]
    grown(root / "RSNA_ASNR_MICCAI_BraTS2021_TrainingData", BRATS_2023)
    with pytest.raises(DataError, match="holds cases of 2021 and of 2023"):
        taken(root)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"labels": {"background": 0, "whole": [1, "2"]}},
            "labels.whole = [1, '2']: expected a whole number,",
        ),
        ({"labels": {"background": 0, "a": 1.5}}, "labels.a = 1.5: expected a whole number"),
        ({"labels": {"a": 1, "b": 2}}, "expected 0 for the background"),
        ({"labels": None}, "labels = None: expected names with their values"),
        ({"file_ending": ".mha"}, "file_ending = '.mha': known for volumes: .nii, .nii.gz"),
        ({"channel_names": []}, "channel_names = []: expected the channels by their numbers"),
    ],
)
def test_what_of_a_card_is_not_read_is_one_line(tmp_path: Path, more: dict[str, object], message: str) -> None:
    root = nnunet(tmp_path, **more)
    with pytest.raises(DataError, match=re.escape(message)):
        (taken(root), settings(root))


@pytest.mark.parametrize("name", TREES)
def test_a_drawn_tree_of_each_layout_is_split_and_prepared(tmp_path: Path, name: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    root = TREES[name][0](tmp_path / "Task")
    source = DataFolder(root, recognised(root))
    meaning = {"classes": [{"name": "ground", "value": 0}, {"name": "organ", "value": 1}]} if name == "folders" else {}
    kind = kind_of({**settings_of([source]), **meaning, "multiple": [8, 8, 8]}, "settings")
    assert isinstance(kind, VolumeData)
    values = coding_for(kind).greys[coding_for(kind).greys < 255]
    for at, file in enumerate(sorted(path for path in root.rglob("*.nii*") if not path.name.startswith("."))):
        rng = np.random.default_rng(at)
        label = "label" in file.parent.name or "_seg" in file.name or "-seg" in file.name
        own = rng.choice(values, (9, 8, 7)).astype(np.uint8) if label else rng.integers(-100, 200, (9, 8, 7), np.int16)
        nibabel.save(nibabel.Nifti1Image(own, np.diag([-1.5, -1.5, 2.0, 1.0])), file)
    wish = Wish(1, {"train": 0.4, "validation": 0.3, "test": 0.3})
    drawn = draw_split([(root, surveyed(source))], tmp_path, kind, wish, how={}, progress=lambda *_: None)
    cases = [(row.image, tmp_path / row.image, tmp_path / row.mask) for row in drawn.rows]
    done = prepare_cases(kind, case_files(cases, kind.channels), cache=tmp_path / "cache")
    assert done.fresh == len(drawn.rows) == sum(TREES[name][2].values())
    for case in done.cases:
        assert case.image.shape == (channels_of(kind), *case.label.shape)
        assert all(side % 8 == 0 for side in case.label.shape)
        assert np.array_equal(labels_back(case.label, case.way), case.native_label) or kind.recipe in ("btcv", "word")


def test_real_hippocampus_is_recognised(real_data: Path) -> None:
    root = real_data / "Task04_Hippocampus"
    kind = settings(root)
    assert [known.name for known in kind.classes] == ["background", "Anterior", "Posterior"]
    assert len(taken(root).pairs) == 12


def test_a_split_of_volumes_is_drawn_written_and_read_again(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    root = nnunet(tmp_path / "Dataset001_Drawn")
    rng = np.random.default_rng(0)
    for name in NNUNET[:-1]:
        own = rng.integers(0, 3, (6, 5, 4)).astype(np.uint8) if "labels" in name else rng.random((6, 5, 4), np.float32)
        nibabel.save(nibabel.Nifti1Image(own, np.diag([-1.0, -2.0, 3.0, 1.0])), root / name)
    kind = settings(root)
    wish = Wish(1, {"train": 0.5, "validation": 0.25, "test": 0.25})
    drawn = draw_split([(root, taken(root))], tmp_path, kind, wish, how={}, progress=lambda *_: None)
    assert Counter(row.part for row in drawn.rows) == {"train": 2, "validation": 1, "test": 1}
    assert {(entry.width, entry.height, entry.depth, entry.spacing) for entry in drawn.checked} == {
        (6, 5, 4, (1, 2, 3))
    }
    write_split(tmp_path / "split.csv", drawn.rows)
    rows = read_split(tmp_path / "split.csv", tmp_path)
    assert rows == drawn.rows
    assert samples(rows)[0].name == "Dataset001_Drawn/case_000.nii.gz"
    (root / NNUNET[1]).unlink()
    with pytest.raises(DataError, match=r"1 of 4 pairs are bad: .*case_000_0001.nii.gz: no such file"):
        check_rows(rows, tmp_path, reading_for(kind), lambda *_: None)
