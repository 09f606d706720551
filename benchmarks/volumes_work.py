"""What the benchmark of volumes trains, and the product's arm of it; also its passes alone.

    python -m benchmarks.volumes_work --folder DATA --patch 32 --slots 8 --trials 8 --epochs 2 --account FILE
    python -m benchmarks.volumes_work --folder DATA --patch 32 --passes --account FILE

Drawn NIfTI files of 64 x 64 x 48 voxels with three objects; tiny U-Nets, distilled by logits from one residual U-Net,
both of the published widths. A batch is four patches.
"""

import argparse
import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.nn import functional

import models
from benchmarks.clock import now
from benchmarks.workloads import searched
from models.config import network_config
from models.output import Segmenter
from search.spec.load import StudySpec, load

CLASSES = ("ground", "ball", "shell", "core")
SHAPE = (64, 64, 48)
"""Voxels of each case, 1 mm a side."""
TRAIN, VALIDATION = 4, 1
PATCHES = 4
"""Of each case in an epoch, and in a batch: MONAI cuts the patches of a batch from one case."""
STUDENT, TEACHER = ("tiny-unet-3d", 32), ("residual-unet-3d", 64)
"""Names and widths as published: 1.95 and 18.98 million parameters."""
OVERLAP, WINDOWS = 0.5, 4
"""Of the sliding window, and how many windows go through the network together."""
REPEATS = 5


def draw_cases(folder: Path) -> None:
    """Write images, labels and `split.csv` into the folder."""
    import nibabel

    rows = []
    for number, part in enumerate(["train"] * TRAIN + ["validation"] * VALIDATION + ["test"]):
        places = []
        for kind, array in zip(("images", "labels"), _case(number), strict=True):
            path = folder / kind / f"case_{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
            places.append(f"{kind}/{path.name}")
        rows.append(["drawn", *places, f"p{number}", part])
    with (folder / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["source", "image", "mask", "group", "split"], *rows])


def _case(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A ball with a core, in a shell, in grain."""
    rng = np.random.default_rng(seed)
    centre = np.array(SHAPE) / 2 + rng.uniform(-6, 6, 3)
    places = np.stack(np.meshgrid(*(np.arange(side) for side in SHAPE), indexing="ij"), -1)
    distance = np.sqrt(((places - centre) ** 2).sum(-1))
    label = np.select([distance < 6, distance < 12, distance < 15], [3, 1, 2], 0).astype(np.uint8)
    return (label * 0.5 + rng.normal(0, 0.4, SHAPE) + 1).astype(np.float32), label


def network(which: tuple[str, int]) -> Segmenter:
    """A network of the product with drawn weights."""
    name, width = which
    return models.build(network_config(name, width=width), in_channels=1, classes=len(CLASSES), dims=3)


def teacher_file(folder: Path) -> Path:
    """Random weights of the teacher, made once: what a pass costs does not depend on them."""
    path = folder / "teacher.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        weights = network(TEACHER).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


def study(folder: Path, patch: int, *, trials: int, epochs: int, views: bool, seed: int) -> StudySpec:
    """The study file of one arm, in the folder of its cases."""
    path = folder / f"volumes-{patch}.toml"
    classes = ", ".join(f'{{ name = "{name}", value = {at} }}' for at, name in enumerate(CLASSES))
    path.write_text(
        f"""\
[objective]
maximize = "dice"
[run]
method     = "kl"
epochs     = {epochs}
batch_size = {PATCHES}
[run.data]
name    = "volumes"
root    = "{folder}"
split   = "{folder}/split.csv"
classes = [{classes}]
recipe  = "msd"
patch   = [{patch}, {patch}, {patch}]
patches = {PATCHES}
augment = "standard"
overlap = {OVERLAP}
{f"views = {epochs}" if views else ""}
[run.teacher]
name       = "{TEACHER[0]}"
width      = {TEACHER[1]}
checkpoint = "{teacher_file(folder)}"
[run.student]
name  = "{STUDENT[0]}"
width = {STUDENT[1]}
{searched(trials, seed)}"""
    )
    return load(path)


def windows_of(patch: int) -> int:
    """Windows of the sliding window over the validation cases."""
    step = int(patch * (1 - OVERLAP))
    count = 1
    for side in SHAPE:
        count *= 1 if side <= patch else -(-(side - patch) // step) + 1
    return count * VALIDATION


def passes(patch: int) -> dict[str, float]:
    """CPU seconds of what no loop can leave out, medians of a few: a batch through the teacher, a batch forward and
    backward through a student, and an epoch's validation windows."""
    torch.manual_seed(0)
    images, window = torch.randn(PATCHES, 1, patch, patch, patch), torch.randn(WINDOWS, 1, patch, patch, patch)
    target = torch.randint(len(CLASSES), (PATCHES, patch, patch, patch))
    teacher, student = network(TEACHER).eval(), network(STUDENT).train()

    def taught() -> None:
        with torch.no_grad():
            teacher(images)

    def trained() -> None:
        torch.autograd.backward(functional.cross_entropy(student(images).logits, target))

    def validated() -> None:
        with torch.no_grad():
            student(window)

    return {
        "teacher": _seconds(taught),
        "student": _seconds(trained),
        "validation": _seconds(validated) * windows_of(patch) / WINDOWS,
    }


def _seconds(work: Callable[[], None]) -> float:
    work()
    spent = []
    for _ in range(REPEATS):
        began = now()
        work()
        spent.append(now().since(began).cpu)
    return statistics.median(spent)


def main() -> int:
    """Run the search of an arm, or time its passes, and write the account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="cases and the teacher's file")
    parser.add_argument("--patch", type=int, required=True, help="voxels a side")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--views", action="store_true", help="with as many stored views as epochs")
    parser.add_argument("--passes", action="store_true", help="time forward and backward passes alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--account", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.passes:
        args.account.write_text(json.dumps({"passes": passes(args.patch)}))
        return 0
    from benchmarks.ours import search_once  # with all that a worker imports

    spec = study(args.folder, args.patch, trials=args.trials, epochs=args.epochs, views=args.views, seed=args.seed)
    with tempfile.TemporaryDirectory(prefix="volumes-") as name:
        search_once(spec, args.folder / "cache", Path(name), args.slots).write(args.account)
    return 0


if __name__ == "__main__":
    sys.exit(main())
