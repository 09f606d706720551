"""Volumes that tests draw: NIfTI files with labels, and the settings of a run on them."""

from pathlib import Path

import numpy as np
import pytest

from trainer.config import RunConfig

CLASSES = [{"name": "ground", "value": 0}, {"name": "ball", "value": 1}, {"name": "core", "value": 2}]
REGIONS = {"whole": [1, 2], "core": [2]}


def volume(seed, shape=(18, 16, 12)):
    """A ball with a core in noise, and its labels."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape) / 2 + rng.uniform(-1.5, 1.5, 3)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    distance = np.sqrt((((places - centre) / (1, 1, 0.8)) ** 2).sum(-1))
    label = (distance < 5).astype(np.uint8) + (distance < 2.5)
    return (label * 1.5 + rng.normal(0, 0.3, shape)).astype(np.float32), label.astype(np.uint8)


def write(path, array, affine):
    nibabel = pytest.importorskip("nibabel")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def drawn_cases(root: Path, *, train=3, validation=2, test=1) -> Path:
    """A split file over cases whose files lie L, P, S with 1 x 1 x 2 mm, off centre."""
    affine = np.array([[-1.0, 0, 0, 30], [0, -1.0, 0, 20], [0, 0, 2.0, -7], [0, 0, 0, 1]])
    lines = ["source,image,mask,group,split"]
    parts = ["train"] * train + ["validation"] * validation + ["test"] * test
    for number, part in enumerate(parts):
        image, label = volume(number)
        write(root / f"images/case_{number}.nii.gz", image, affine)
        write(root / f"labels/case_{number}.nii.gz", label, affine)
        lines.append(f"drawn,images/case_{number}.nii.gz,labels/case_{number}.nii.gz,p{number},{part}")
    split = root / "split.csv"
    split.write_text("\n".join(lines) + "\n")
    return split


def run(root: Path, split: Path, **changes) -> RunConfig:
    """A run of two epochs of a tiny U-Net."""
    data = {"name": "volumes", "root": str(root), "split": str(split), "recipe": "msd", "patch": [16, 16, 8],
            "patches": 2, "augment": "standard", "classes": CLASSES} | changes.pop("data", {})  # fmt: skip
    return RunConfig.model_validate(
        {
            "epochs": 2,
            "batch_size": 2,
            "data": data,
            "student": {"name": "tiny-unet-3d", "width": 4},
            "losses": {"ce": {}, "dice": {}},
            "optim": {"lr": 0.01},
        }
        | changes
    )
