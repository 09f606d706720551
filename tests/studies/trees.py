"""Drawn trees of the data sets that the study files name, laid out as shipped, with few pixels."""

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from trainer.data.sets.blobs import draw

SIDE = 64
"""Pixels of a drawn picture's side."""
VOXELS = (40, 36, 34)
"""Sides of a drawn volume."""


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture (height, width, 3) and mask (height, width) of 0 and 255, with an object in it."""
    while True:
        pixels, mask = draw(number, SIDE)
        if mask.any():
            return pixels, mask * np.uint8(255)
        number += 10_000


def written(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def paired(root: Path, image: str, mask: str, numbers: range) -> None:
    """One picture and its mask a number; {} is the number."""
    for number in numbers:
        pixels, own = picture(number)
        written(root / image.format(number), pixels)
        written(root / mask.format(number), own)


def isic_2018(root: Path) -> None:
    """Its training folders alone, of which the study divides the pictures."""
    paired(
        root,
        "ISIC2018_Task1-2_Training_Input/ISIC_{:07d}.jpg",
        "ISIC2018_Task1_Training_GroundTruth/ISIC_{:07d}_segmentation.png",
        range(1, 15),
    )


def isic_2016(root: Path) -> None:
    for part, numbers in (("Training", range(1, 11)), ("Test", range(11, 15))):
        folder = f"ISBI2016_ISIC_Part1_{part}"
        paired(
            root, f"{folder}_Data/ISIC_{{:07d}}.jpg", f"{folder}_GroundTruth/ISIC_{{:07d}}_Segmentation.png", numbers
        )


def segpc_2021(root: Path) -> None:
    """Two cells a picture: 20 is cytoplasm, 40 the nucleus within it."""
    for part, numbers in (("train", range(1, 9)), ("validation", range(9, 12))):
        folder = root / "TCIA_SegPC_dataset" / part
        for number in numbers:
            written(folder / "x" / f"{number}.bmp", cv2.resize(picture(number)[0], (160, 120)))
            for cell, centre in ((1, (40, 40)), (2, (110, 80))):
                own = np.zeros((120, 160), np.uint8)
                cv2.circle(own, centre, 24, 20, -1)
                cv2.circle(own, centre, 12, 40, -1)
                written(folder / "y" / f"{number}_{cell}.bmp", own)


def polyps(folder: str, image: str, mask: str) -> Callable[[Path], None]:
    def drawn(root: Path) -> None:
        paired(root / folder, image, mask, range(1, 15))

    return drawn


def synapse(root: Path) -> None:
    """Slices of two classes' blobs in 0 to 1: files of TransUNet's form."""
    h5py = pytest.importorskip("h5py")

    def slices(case: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [
            tuple(cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) for each in picture(100 * case + at))
            for at in range(count)
        ]
        label = [np.where(mask > 0, 1 + at % 8, 0).astype(np.float32) for at, (_, mask) in enumerate(drawn)]
        return np.stack([pixels[..., 0] / np.float32(255) for pixels, _ in drawn]), np.stack(label)

    for case in (5, 6, 7, 9):
        for at, (image, label) in enumerate(zip(*slices(case, 8), strict=True)):
            path = root / "train_npz" / f"case{case:04d}_slice{at:03d}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, image=image, label=label)
    (root / "test_vol_h5").mkdir()
    for case in (1, 2):
        with h5py.File(root / "test_vol_h5" / f"case{case:04d}.npy.h5", "w") as file:
            file["image"], file["label"] = slices(case, 8)


def volume(path: Path, voxels: np.ndarray) -> None:
    nibabel = pytest.importorskip("nibabel")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.5, 1.5, 2.0, 1.0])), path)


def balls(values: tuple[int, ...], seed: int) -> np.ndarray:
    """A ball of each value, along a line through the volume."""
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in VOXELS), indexing="ij"), axis=-1)
    label = np.zeros(VOXELS, np.uint8)
    rng = np.random.default_rng(seed)
    for value in values:
        centre = rng.uniform(8, np.array(VOXELS) - 8)
        label[((grid - centre) ** 2).sum(axis=-1) < 16] = value
    return label


def word(root: Path) -> None:
    for part, numbers in (("Tr", (2, 4, 5)), ("Val", (1, 6)), ("Ts", (3, 9))):
        for number in numbers:
            label = balls(tuple(range(1, 17)), number)
            noise = np.random.default_rng(number).integers(-40, 40, VOXELS, np.int16)
            volume(root / f"images{part}" / f"word_{number:04d}.nii.gz", (label * 10 + noise).astype(np.int16))
            volume(root / f"labels{part}" / f"word_{number:04d}.nii.gz", label)


def brats_21(root: Path) -> None:
    top = root / "RSNA_ASNR_MICCAI_BraTS2021_TrainingData"
    for number in range(6):
        case = top / f"BraTS2021_{number:05d}" / f"BraTS2021_{number:05d}"
        label = balls((2, 1, 4), number)
        for at, name in enumerate(("flair", "t1ce", "t1", "t2")):
            noise = np.random.default_rng((number, at)).integers(100, 140, VOXELS, np.int16)
            volume(case.with_name(f"{case.name}_{name}.nii.gz"), (label * 10 + noise).astype(np.int16))
        volume(case.with_name(f"{case.name}_seg.nii.gz"), label)


TREES: Mapping[str, tuple[str, Callable[[Path], None]]] = {
    "isic2018": ("ISIC2018_ROOT", isic_2018),
    "segpc2021": ("SEGPC_ROOT", segpc_2021),
    "isic2016": ("ISIC2016_ROOT", isic_2016),
    "kvasir": ("KVASIR_ROOT", polyps("Kvasir-SEG", "images/cju{}.jpg", "masks/cju{}.jpg")),
    "clinicdb": ("CLINICDB_ROOT", polyps("CVC-ClinicDB", "Original/{}.tif", "Ground Truth/{}.tif")),
    "colondb": ("COLONDB_ROOT", polyps("CVC-ColonDB", "images/{}.png", "masks/{}.png")),
    "etis": ("ETIS_ROOT", polyps("ETIS-LaribPolypDB", "images/{}.png", "masks/{}.png")),
    "synapse": ("SYNAPSE_ROOT", synapse),
    "word": ("WORD_ROOT", word),
    "brats21": ("BRATS_ROOT", brats_21),
}
"""Data set, as the study files' names end in it -> the variable of its folder, and what draws it."""
