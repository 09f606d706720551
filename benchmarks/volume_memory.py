"""How much memory a large case takes: 512 x 512 x 148 voxels of 14 classes, validated with a small network.

    OMP_NUM_THREADS=1 python -m benchmarks.volume_memory
    OMP_NUM_THREADS=1 python -m benchmarks.volume_memory --shape 64 64 32 --patch 32

The case is drawn and prepared in a process of its own; what is printed is the most that the validating process ever
had, with its libraries, against 4 GiB.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.clock import now, peak
from trainer.config import RunConfig
from trainer.data import open_data
from trainer.distributed.ranks import Ranks
from trainer.evaluation.metrics import validate

CLASSES = 14
BOUND_MB = 4096


def run_of(folder: Path, patch: int) -> RunConfig:
    """A tiny U-Net of width 8 on the folder's cases."""
    classes = [{"name": f"class-{value}", "value": value} for value in range(CLASSES)]
    data = {"name": "volumes", "root": str(folder), "split": str(folder / "split.csv"), "recipe": "none",
            "classes": classes, "patch": [patch] * 3, "overlap": 0.25}  # fmt: skip
    student = {"name": "tiny-unet-3d", "width": 8}
    return RunConfig.model_validate({"epochs": 1, "data": data, "student": student, "losses": {"ce": {}}})


def draw(folder: Path, shape: tuple[int, int, int], patch: int) -> None:
    """A large case to validate and a small one to train on, prepared."""
    import nibabel

    rows = ["source,image,mask,group,split"]
    for name, part, sides in (("large", "validation", shape), ("small", "train", (32, 32, 32))):
        rng = np.random.default_rng(len(rows))
        label = np.zeros(sides, np.uint8)
        for value in range(1, CLASSES):
            at = value * sides[0] // CLASSES
            label[at : at + sides[0] // (2 * CLASSES), sides[1] // 4 : sides[1] // 2, sides[2] // 4 : -1] = value
        image = (label + rng.normal(0, 1, sides)).astype(np.float32)
        for kind, array in (("image", image), ("label", label)):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([0.8, 0.8, 3.0, 1.0])), folder / f"{name}-{kind}.nii.gz")
        rows.append(f"drawn,{name}-image.nii.gz,{name}-label.nii.gz,{name},{part}")
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    open_data(run_of(folder, patch).data, cache=folder / "cache")


def measure(folder: Path, patch: int) -> int:
    """Validate, print what it took, and return the peak in MB."""
    import models

    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = run_of(folder, patch)
    data = open_data(run.data, cache=folder / "cache")
    network = models.build(run.student, in_channels=1, classes=CLASSES, dims=3)
    before, began = peak(), now()
    means = validate(network, data, "validation", ranks=Ranks("cpu"), precision="fp32").means
    spent = now().since(began)
    print(f"dice {means['dice']:.4f}; {spent.cpu:.0f} CPU s; peak {peak()} MB, {before} MB before; bound {BOUND_MB} MB")
    return peak()


def main() -> int:
    """Draw, measure, and say whether it stays below the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 148])
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--folder", type=Path, help="with the case drawn already: measure alone")
    args = parser.parse_args()
    if args.folder is not None:
        return int(measure(args.folder, args.patch) >= BOUND_MB)
    with tempfile.TemporaryDirectory(prefix="volume-memory-") as name:
        draw(Path(name), tuple(args.shape), args.patch)
        words = ["-m", "benchmarks.volume_memory", "--patch", str(args.patch), "--folder", name]
        return subprocess.run([sys.executable, *words]).returncode


if __name__ == "__main__":
    sys.exit(main())
