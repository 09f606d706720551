"""One epoch on the only case of a folder of volumes, for samples that cannot fill three parts; it is no evaluation.

    OMP_NUM_THREADS=1 python -m benchmarks.one_case $DATA/abdomen-multiorgan/nifti \
        --classes aorta,gallbladder,left-kidney,right-kidney,liver,pancreas,spleen,stomach -o one-case

The program refuses one image in two parts. So this script writes the case a second time with one voxel changed by one,
and trains on the first and validates on the second: the score says that reading, preparation, training and pictures
work, and nothing of other patients. The folder has imagesTr and labelsTr; classes are named from label 1 on. It leaves
the study file, its cache, the network and `planes.png`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np


def write_twice(folder: Path, out: Path) -> str:
    """The case as it is and with one voxel more, below `out`; returns the split file's text."""
    images = sorted((folder / "imagesTr").glob("*.nii*"))
    if len(images) != 1:
        raise SystemExit(f"{folder / 'imagesTr'}: holds {len(images)} cases; this script is for one")
    labels = folder / "labelsTr" / images[0].name
    rows = ["source,image,mask,group,split"]
    for part in ("train", "validation"):
        image = nibabel.load(images[0])
        values = np.asanyarray(image.dataobj).copy()
        values[0, 0, 0] += part == "validation"
        for kind, volume in (("image", nibabel.Nifti1Image(values, image.affine)), ("label", nibabel.load(labels))):
            nibabel.save(volume, out / f"{part}-{kind}.nii.gz")
        rows.append(f"one-case,{part}-image.nii.gz,{part}-label.nii.gz,{part},{part}")
    return "\n".join(rows) + "\n"


def study(out: Path, classes: list[str], patch: int) -> str:
    """A study file whose teacher is all that is trained."""
    named = ", ".join(f'{{ name = "{name}", value = {at} }}' for at, name in enumerate(["background", *classes]))
    return f"""\
[objective]
maximize = "dice"
[run]
method     = "kl"
epochs     = 1
batch_size = 2
[run.data]
name    = "volumes"
root    = "{out}"
split   = "{out}/split.csv"
classes = [{named}]
recipe  = "btcv"
spacing = "native"
patch   = [{patch}, {patch}, {patch}]
patches = 8
[run.teacher]
name       = "tiny-unet-3d"
width      = 16
checkpoint = "{out}/network.safetensors"
min_dice   = 0.0
[run.student]
name  = "tiny-unet-3d"
width = 8
[run.losses]
ce   = {{ weight = 1.0 }}
dice = {{ weight = 1.0 }}
kl   = {{ weight = 1.0 }}
[run.optim]
name = "adamw"
[space]
"optim.lr" = {{ low = 1e-4, high = 1e-2, log = true }}
[budget]
trials = 1
"""


def main() -> int:
    """Write the files, then prepare, train and draw with the program's own commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with imagesTr and labelsTr")
    parser.add_argument("--classes", required=True, help="names of the labels 1, 2, ...")
    parser.add_argument("--patch", type=int, default=32, help="voxels a side")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    out: Path = args.output.absolute()
    out.mkdir(parents=True)
    (out / "split.csv").write_text(write_twice(args.folder, out))
    (out / "study.toml").write_text(study(out, args.classes.split(","), args.patch))
    for words in (
        ["data", "prepare", "study.toml"],
        ["teach", "study.toml"],
        ["predict", "network.safetensors", "--grid", "-o", "planes.png"],
    ):
        code = subprocess.run([sys.executable, "-m", "trainer", *words], cwd=out).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
