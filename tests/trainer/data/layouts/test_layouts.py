"""Known data sets from trees whose names stand here as their authors and users list them; files are empty where names
alone decide."""

import json
import re
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.config import PictureData
from trainer.data.layouts import LAYOUTS, DataFolder, data_folders, layout, recognised, settings_of, surveyed
from trainer.data.splits.draw import kind_of, reading_for
from trainer.data.splits.folders import Survey
from trainer.errors import DataError

ISIC_2016 = """
ISBI2016_ISIC_Part1_Training_Data/ISIC_{0000001..0000009}.jpg
ISBI2016_ISIC_Part1_Training_GroundTruth/ISIC_{0000001..0000009}_Segmentation.png
ISBI2016_ISIC_Part1_Test_Data/ISIC_{0000010..0000013}.jpg
ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_{0000010..0000013}_Segmentation.png
"""
ISIC_3B = """
ISBI2016_ISIC_Part3B_Training_Data/ISIC_{0000001..0000009}.jpg
ISBI2016_ISIC_Part3B_Training_Data/ISIC_{0000001..0000009}_Segmentation.png
ISBI2016_ISIC_Part3B_Training_GroundTruth.csv
ISBI2016_ISIC_Part3B_Test_Data/ISIC_{0000010..0000013}.jpg
ISBI2016_ISIC_Part3B_Test_Data/ISIC_{0000010..0000013}_Segmentation.png
"""
ISIC_2018 = """
ISIC2018_Task1-2_Training_Input/ISIC_{0000001..0000006}.jpg
ISIC2018_Task1-2_Training_Input/ATTRIBUTION.txt
ISIC2018_Task1-2_Training_Input/LICENSE.txt
ISIC2018_Task1_Training_GroundTruth/ISIC_{0000001..0000006}_segmentation.png
ISIC2018_Task1-2_Validation_Input/ISIC_{0000007..0000008}.jpg
ISIC2018_Task1_Validation_GroundTruth/ISIC_{0000007..0000008}_segmentation.png
ISIC2018_Task1-2_Test_Input/ISIC_{0000009..0000011}.jpg
ISIC2018_Task1_Test_GroundTruth/ISIC_{0000009..0000011}_segmentation.png
"""
GLAS = """
train_{1..85}.bmp
train_{1..85}_anno.bmp
testA_{1..60}.bmp
testA_{1..60}_anno.bmp
testB_{1..20}.bmp
testB_{1..20}_anno.bmp
Grade.csv
"""
GLAS_PACKED = """
Train_Folder/img/{1..8}.png
Train_Folder/labelcol/{1..8}.png
Test_Folder/img/{1..5}.png
Test_Folder/labelcol/{1..5}.png
"""
KVASIR = """
Kvasir-SEG/images/cju{1..7}.jpg
Kvasir-SEG/masks/cju{1..7}.jpg
Kvasir-SEG/kavsir_bboxes.json
"""
CLINIC = """
Original/{1..12}.tif
Ground Truth/{1..12}.tif
"""
CLINIC_PNG = """
PNG/Original/{1..12}.png
PNG/Ground Truth/{1..12}.png
"""
COLON = """
CVC-ColonDB/images/{1..5}.png
CVC-ColonDB/masks/{1..5}.png
"""
COLON_2012 = """
CVC-ColonDB/{1..5}.bmp
CVC-ColonDB/p{1..5}.bmp
"""
ETIS = """
ETIS-LaribPolypDB/images/{1..5}.png
ETIS-LaribPolypDB/masks/{1..5}.png
"""
ETIS_OFFICIAL = """
ETIS-LaribPolypDB/{1..6}.tif
Ground Truth/p{1..6}.tif
"""
PRANET = """
TrainDataset/image/{1..4}.png
TrainDataset/mask/{1..4}.png
TrainDataset/image/cju{1..9}.png
TrainDataset/mask/cju{1..9}.png
TestDataset/CVC-300/images/{149..151}.png
TestDataset/CVC-300/masks/{149..151}.png
TestDataset/CVC-ClinicDB/images/{5..6}.png
TestDataset/CVC-ClinicDB/masks/{5..6}.png
TestDataset/CVC-ColonDB/images/{1..4}.png
TestDataset/CVC-ColonDB/masks/{1..4}.png
TestDataset/ETIS-LaribPolypDB/images/{1..3}.png
TestDataset/ETIS-LaribPolypDB/masks/{1..3}.png
TestDataset/Kvasir/images/cjux{1..2}.png
TestDataset/Kvasir/masks/cjux{1..2}.png
"""
PARTS = """
train/images/{1..8}.jpg
train/masks/{1..8}.jpg
validation/images/{1..2}.jpg
validation/masks/{1..2}.jpg
test/images/{1..3}.jpg
test/masks/{1..3}.jpg
"""
SEGPC = """
TCIA_SegPC_dataset/TCIA_SegPC_dataset/train/x/{1..3}.bmp
TCIA_SegPC_dataset/TCIA_SegPC_dataset/train/y/{1..3}_{1..2}.bmp
TCIA_SegPC_dataset/TCIA_SegPC_dataset/validation/x/{1..2}.bmp
TCIA_SegPC_dataset/TCIA_SegPC_dataset/validation/y/{1..2}_1.bmp
TCIA_SegPC_dataset/TCIA_SegPC_dataset/test/x/{1..4}.bmp
"""
MONUSEG = """
MoNuSeg 2018 Training Data/Tissue Images/TCGA-18-5592-01Z-00-DX1.tif
MoNuSeg 2018 Training Data/Tissue Images/TCGA-38-6178-01Z-00-DX1.tif
MoNuSeg 2018 Training Data/Tissue Images/TCGA-38-6178-01Z-00-DX2.tif
MoNuSeg 2018 Training Data/Annotations/TCGA-18-5592-01Z-00-DX1.xml
MoNuSeg 2018 Training Data/Annotations/TCGA-38-6178-01Z-00-DX1.xml
MoNuSeg 2018 Training Data/Annotations/TCGA-38-6178-01Z-00-DX2.xml
MoNuSegTestData/TCGA-2Z-A9J9-01A-01-TS1.tif
MoNuSegTestData/TCGA-2Z-A9J9-01A-01-TS1.xml
"""
SYNAPSE = """
train_npz/case0005_slice{000..002}.npz
train_npz/case0006_slice{000..001}.npz
lists/train.txt
"""

TREES = {
    "ISIC 2016": ("isic-2016", ISIC_2016, {"train": 9, "test": 4}, []),
    "ISIC 2016, one folder": ("isic-2016", ISIC_3B, {"train": 9, "test": 4}, ["beside them: ISBI2016_ISIC_Part3B_Tr"]),
    "ISIC 2018": ("isic-2018", ISIC_2018, {"train": 6, "validation": 2, "test": 3}, ["2 files not of this data set"]),
    "GlaS": ("glas", GLAS, {"train": 85, "test": 80}, ["1 file not of this data set (Grade.csv)"]),
    "GlaS, packed anew": ("glas", GLAS_PACKED, {"train": 8, "test": 5}, []),
    "Kvasir-SEG": ("kvasir-seg", KVASIR, {None: 7}, []),
    "CVC-ClinicDB": ("cvc-clinicdb", CLINIC, {None: 12}, []),
    "CVC-ClinicDB as PNG": ("cvc-clinicdb", CLINIC_PNG, {None: 12}, []),
    "CVC-ColonDB": ("cvc-colondb", COLON, {None: 5}, []),
    "CVC-ColonDB of 2012": ("cvc-colondb", COLON_2012, {None: 5}, []),
    "ETIS": ("etis-larib", ETIS, {None: 5}, []),
    "ETIS, official": ("etis-larib", ETIS_OFFICIAL, {None: 6}, []),
    "PraNet": ("pranet", PRANET, {"train": 13, "test": 14}, []),
    "parts": ("part-folders", PARTS, {"train": 8, "validation": 2, "test": 3}, []),
    "SegPC-2021": ("segpc-2021", SEGPC, {"train": 6, "test": 2}, ["beside them: test"]),
    "MoNuSeg": ("monuseg", MONUSEG, {"train": 3, "test": 1}, []),
    "Synapse": ("synapse", SYNAPSE, {None: 5}, []),
}
"""Name -> layout, tree, pairs by part, and the beginnings of lines on what is left out."""


def listed(text: str) -> list[str]:
    """The paths of a listing, in which {1..3} and {001..003} are ranges."""
    paths = []
    for line in text.split("\n"):
        pieces = re.split(r"\{(\d+)\.\.(\d+)\}", line)
        ranges = [
            [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
            for first, last in zip(pieces[1::3], pieces[2::3], strict=True)
        ]
        for numbers in product(*ranges):
            texts = [*pieces[::3]]
            paths.append("".join(text + number for text, number in zip(texts, (*numbers, ""), strict=True)))
    return [path for path in paths if path]


def grown(root: Path, text: str) -> Path:
    """A tree of empty files; the root is the folder that a person would name."""
    names = listed(text)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    single = {name.split("/")[0] for name in names}
    named = single & {"Kvasir-SEG", "CVC-ColonDB"} or (single if single == {"ETIS-LaribPolypDB"} else set())
    return root / named.pop() if named else root


def taken(root: Path, choice: str | None = None) -> Survey:
    return surveyed(DataFolder(root, recognised(root, choice)))


@pytest.mark.parametrize("name", TREES)
def test_a_data_set_is_recognised_and_its_pairs_are_taken(tmp_path: Path, name: str) -> None:
    known, text, counts, left = TREES[name]
    root = grown(tmp_path / "unzipped", text)
    seen = recognised(root)
    assert seen is not None
    assert seen.name == known
    survey = taken(root)
    assert Counter(pair.part for pair in survey.pairs) == counts
    assert all(pair.image.exists() and pair.mask.exists() for pair in survey.pairs)
    assert len(survey.left) == len(left)
    assert all(start in line for start, line in zip(left, survey.left, strict=True)), survey.left
    assert survey.validates == (set(counts) != {"train", "test"})
    kind_of(seen.layout.settings(root), "settings")
    assert seen.why in str(DataFolder(root, seen))


def test_every_layout_has_a_tree_here() -> None:
    here = {known for known, *_ in TREES.values()}
    # Their files are opened to count slices, or their names depend on a file; or they lie as another one.
    elsewhere = {"acdc", "nnunet-2d", "segpc-2021-cytoplasm", "synapse-original"}
    elsewhere |= {"btcv", "word", "brats", "nnunet", "decathlon", "volume-folders"}  # test_volume_layouts.py
    assert here | elsewhere == set(LAYOUTS)
    for name in LAYOUTS:
        assert layout(name).title
        assert layout(name).terms


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        ("ISIC 2016", "ISBI2016_ISIC_Part1_Test_Data/ISIC_0000011.jpg", "1 mask without image (ISIC_0000011_Segm"),
        ("ISIC 2018", "ISIC2018_Task1_Test_GroundTruth/ISIC_0000009_segmentation.png", "1 image without mask"),
        ("GlaS", "testB_7_anno.bmp", "1 image without mask (testB_7.bmp)"),
        ("PraNet", "TestDataset/Kvasir/masks/cjux1.png", "1 images without a mask ("),
        ("SegPC-2021", "TCIA_SegPC_dataset/TCIA_SegPC_dataset/train/x/2.bmp", "2 masks without image (2_1.bmp"),
        ("MoNuSeg", "MoNuSegTestData/TCGA-2Z-A9J9-01A-01-TS1.tif", "1 mask without image"),
    ],
)
def test_a_missing_half_is_an_error(tmp_path: Path, name: str, lost: str, message: str) -> None:
    root = grown(tmp_path, TREES[name][1])
    if name == "MoNuSeg":  # a folder without any picture is none of it
        (root / "MoNuSegTestData" / "TCGA-2Z-A9J9-01A-01-TS2.tif").touch()
        (root / "MoNuSegTestData" / "TCGA-2Z-A9J9-01A-01-TS2.xml").touch()
    (root / lost).unlink()
    with pytest.raises(DataError, match=re.escape(message)):
        taken(root)


def test_a_training_folder_of_isic_2018_alone_is_divided_anew(tmp_path: Path) -> None:
    grown(tmp_path, "\n".join(line for line in ISIC_2018.split("\n") if "Training" in line))
    assert Counter(pair.part for pair in taken(tmp_path).pairs) == {None: 6}


def test_groups_and_sources_are_those_of_the_data_set(tmp_path: Path) -> None:
    cells = taken(grown(tmp_path / "segpc", SEGPC)).pairs
    assert [(pair.image.name, pair.mask.name, pair.group) for pair in cells[:3]] == [
        ("1.bmp", "1_1.bmp", "train-1"),
        ("1.bmp", "1_2.bmp", "train-1"),
        ("2.bmp", "2_1.bmp", "train-2"),
    ]
    slides = taken(grown(tmp_path / "monuseg", MONUSEG)).pairs
    assert [pair.group for pair in slides] == ["TCGA-18-5592", "TCGA-38-6178", "TCGA-38-6178", "TCGA-2Z-A9J9"]
    polyps = taken(grown(tmp_path / "pranet", PRANET)).pairs
    assert Counter((pair.source, pair.part) for pair in polyps) == {
        ("CVC-ClinicDB", "train"): 4,
        ("Kvasir", "train"): 9,
        ("CVC-300", "test"): 3,
        ("CVC-ClinicDB", "test"): 2,
        ("CVC-ColonDB", "test"): 4,
        ("ETIS-LaribPolypDB", "test"): 3,
        ("Kvasir", "test"): 2,
    }
    slices = taken(grown(tmp_path / "synapse", SYNAPSE)).pairs
    assert Counter((pair.group, pair.case) for pair in slices) == {("case0005", "case0005"): 3, ("case0006",) * 2: 2}
    assert all(pair.image == pair.mask for pair in slices)


def named_values(name: str, folder: Path) -> dict[str, object]:
    return {known["name"]: known["value"] for known in layout(name).settings(folder)["classes"]}


def test_the_two_numberings_of_synapse_are_layouts_of_their_own(tmp_path: Path) -> None:
    root = grown(tmp_path / "transunet", SYNAPSE)
    assert named_values("synapse", root) == {
        "background": 0, "aorta": 1, "gallbladder": 2, "left-kidney": 3, "right-kidney": 4, "liver": 5, "pancreas": 6,
        "spleen": 7, "stomach": 8,
    }  # fmt: skip
    assert len(taken(root, "synapse-original").pairs) == 5
    new = grown(tmp_path / "cascade", SYNAPSE.replace("train_npz", "train_npz_new"))
    seen = recognised(new)
    assert seen is not None
    assert seen.name == "synapse-original"
    assert named_values("synapse-original", new) == {
        "background": [0, 5, 9, 10, 12, 13], "spleen": 1, "right-kidney": 2, "left-kidney": 3, "gallbladder": 4,
        "pancreas": 11, "liver": 6, "stomach": 7, "aorta": 8,
    }  # fmt: skip
    assert len(taken(new).pairs) == 5


def test_segpc_has_two_targets(tmp_path: Path) -> None:
    root = grown(tmp_path, SEGPC)
    settings = {name: layout(name).settings(root) for name in ("segpc-2021", "segpc-2021-cytoplasm")}
    assert [(each["reader"], each["channels"]) for each in settings.values()] == [
        ("segpc-cell", 4),
        ("segpc-cytoplasm", 4),
    ]
    assert len(taken(root, "segpc-2021-cytoplasm").pairs) == 8


NNUNET = """
imagesTr/case_{001..006}_0000.png
labelsTr/case_{001..006}.png
imagesTs/case_{007..008}_0000.png
"""


def card(root: Path, **more: object) -> Path:
    table = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "left lung": 1, "heart": 2},
        "numTraining": 6,
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(table | more))
    return root


def test_a_raw_folder_of_nnunet_names_its_classes(tmp_path: Path) -> None:
    root = card(grown(tmp_path, NNUNET))
    seen = recognised(root)
    assert seen is not None
    assert seen.name == "nnunet-2d"
    survey = taken(root)
    assert Counter(pair.part for pair in survey.pairs) == {None: 6}
    assert survey.left == ["beside them: imagesTs"]
    settings = settings_of([DataFolder(root, seen)])
    assert settings == {
        "name": "pictures",
        "classes": [
            {"name": "background", "value": 0},
            {"name": "left-lung", "value": 1},
            {"name": "heart", "value": 2},
        ],
        "channels": 1,
    }
    card(root, labels={"background": 0, "heart": 1, "ignore": 2}, channel_names={"0": "R", "1": "G", "2": "B"})
    settings = settings_of([DataFolder(root, seen)])
    assert (settings["channels"], settings["ignore"]) == (3, 2)
    grown(root, "labelsTs/case_{007..008}.png")
    assert Counter(pair.part for pair in taken(root).pairs) == {"train": 6, "test": 2}


def test_values_that_names_share_are_regions_of_nnunet(tmp_path: Path) -> None:
    labels = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    root = card(grown(tmp_path, NNUNET), labels=labels)
    regions = {"whole-tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    settings = settings_of([DataFolder(root, recognised(root))])
    assert settings == {"name": "pictures", "regions": regions, "channels": 1, "ignore": 4}
    assert list(settings["regions"]) == list(regions)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labels": {"background": 0, "tumour": ["1"]}}, "labels.tumour = ['1']: expected a whole number, or a list"),
        ({"labels": {"heart": 1, "lung": 2}}, "expected 0 for the background"),
        ({"labels": {}}, "labels = {}: expected names"),
        ({"file_ending": ".nii.gz"}, "file_ending = '.nii.gz': volumes are the layout nnunet"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, "channel_names = {'0': 'T1', '1': 'T2'}: grey pictures"),
    ],
)
def test_what_of_nnunet_is_not_read_is_said(tmp_path: Path, more: dict[str, object], message: str) -> None:
    root = card(grown(tmp_path, NNUNET), **more)
    with pytest.raises(DataError, match=re.escape(message)):
        (settings_of([DataFolder(root, recognised(root))]), taken(root))


def test_channels_in_files_of_their_own_are_refused(tmp_path: Path) -> None:
    root = card(grown(tmp_path, f"{NNUNET}imagesTr/case_001_0001.png"))
    with pytest.raises(DataError, match="channels in files of their own"):
        taken(root)


def nifti(path: Path, slices: int) -> None:
    """A volume of 4 x 4 x slices, uncompressed inside a gzip file, with nothing but its header's numbers set."""
    nibabel = pytest.importorskip("nibabel")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, slices), np.int16), np.eye(4)), path)


def test_acdc_is_a_row_a_slice(tmp_path: Path) -> None:
    for patient, part, slices in (("patient001", "training", 3), ("patient101", "testing", 2)):
        for frame in ("01", "12"):
            for ending in ("", "_gt"):
                nifti(tmp_path / part / patient / f"{patient}_frame{frame}{ending}.nii.gz", slices)
        (tmp_path / part / patient / f"{patient}_4d.nii.gz").touch()
        (tmp_path / part / patient / "Info.cfg").touch()
    pairs = taken(tmp_path).pairs
    assert Counter((pair.part, pair.group, pair.case) for pair in pairs) == {
        ("train", "patient001", "patient001_frame01"): 3,
        ("train", "patient001", "patient001_frame12"): 3,
        ("test", "patient101", "patient101_frame01"): 2,
        ("test", "patient101", "patient101_frame12"): 2,
    }
    assert (pairs[2].image.name, pairs[2].mask.name) == (
        "patient001_frame01.nii.gz#2",
        "patient001_frame01_gt.nii.gz#2",
    )


def test_volumes_of_synapse_are_a_row_a_slice(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    root = grown(tmp_path, SYNAPSE)
    (root / "test_vol_h5").mkdir()
    with h5py.File(root / "test_vol_h5" / "case0008.npy.h5", "w") as file:
        file["image"] = file["label"] = np.zeros((4, 8, 8))
    survey = taken(root)
    assert Counter((pair.part, pair.case) for pair in survey.pairs) == {
        ("train", "case0005"): 3,
        ("train", "case0006"): 2,
        ("test", "case0008"): 4,
    }
    assert [pair.image.name for pair in survey.pairs][-1] == "case0008.npy.h5#3"
    (root / "train_npz" / "case0008_slice000.npz").touch()
    with pytest.raises(DataError, match="1 case in train_npz and in test_vol_h5"):
        taken(root)


def test_folders_in_a_folder_are_looked_at_each(tmp_path: Path) -> None:
    grown(tmp_path, KVASIR)
    grown(tmp_path / "clinic", CLINIC)
    folders = data_folders(tmp_path)
    assert [(entry.folder.name, entry.known and entry.known.name) for entry in folders] == [
        ("Kvasir-SEG", "kvasir-seg"),
        ("clinic", "cvc-clinicdb"),
    ]
    assert settings_of(folders) == {"name": "polyp", "labels": "0-127: background, 128-255: object"}
    card(grown(tmp_path / "nnunet", NNUNET))
    with pytest.raises(DataError, match="Kvasir-SEG and nnunet have masks of other classes"):
        settings_of(data_folders(tmp_path))


def test_a_layout_that_a_folder_has_not_is_refused(tmp_path: Path) -> None:
    root = grown(tmp_path, CLINIC)
    with pytest.raises(DataError, match=r"does not lie as GlaS.*it looks like cvc-clinicdb \(it holds Original"):
        recognised(root, "glas")
    with pytest.raises(DataError, match=r"unknown layout; .*nearest: glas"):
        recognised(root, "glass")
    assert recognised(root, "folders") is None


def test_real_samples_are_recognised_and_read(real_data: Path) -> None:
    """What is read of each is a picture and a mask with an object of it."""
    samples = {
        "as-shipped/Kvasir-SEG": ("kvasir-seg", 4),
        "as-shipped/CVC-ClinicDB": ("cvc-clinicdb", 3),
        "ISIC2018": ("isic-2018", 60),
        "CVC-ColonDB": ("part-folders", 13),
        "SegPC-2021": ("part-folders", 30),
    }
    for name, (known, count) in samples.items():
        seen = recognised(real_data / name)
        assert seen is not None
        assert seen.name == known
        pairs = seen.layout.survey(real_data / name).pairs
        assert len(pairs) == count
        assert np.asarray(Image.open(pairs[0].mask)).any() if known != "cvc-clinicdb" else True
    assert recognised(real_data / "MSD-Spleen-2D") is None


def test_a_real_volume_by_slice_is_read(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "train_npz").symlink_to(real_data / "abdomen-multiorgan" / "train_npz")
    survey = taken(tmp_path)
    assert Counter(pair.case for pair in survey.pairs) == {"case0001": 30}
    seen = recognised(tmp_path)
    assert seen is not None
    kind = kind_of(seen.layout.settings(tmp_path), "settings")
    assert isinstance(kind, PictureData)
    image, labels = reading_for(kind).pair(survey.pairs[15].image, survey.pairs[15].mask)
    assert image.shape == (*labels.shape, 1)
    assert set(np.unique(labels)) <= set(range(9))
    assert {1, 5} <= set(np.unique(labels))  # aorta and liver
