"""ACDC: the heart in cine MRI at the end of diastole and systole (Bernard et al. 2018, IEEE TMI 37).

training/patient<001 to 100>/, testing/patient<101 to 150>/
    Info.cfg, patient<NNN>_4d.nii.gz, patient<NNN>_frame<KK>.nii.gz, patient<NNN>_frame<KK>_gt.nii.gz

Masks hold 1 right ventricle, 2 myocardium, 3 left ventricle. A row is a slice; `patient001_frame01.nii.gz#5` is the
slice 5, counted from 0. A patient is the group, a frame the volume. All of this is from memory and from public loaders.
The networks of TransUNet's family split the 100 by patient into 70, 10 and 20; which, is not said here. MRI has no
scale of its own, and those networks stretch each slice by its own extremes; here 0 to 1000 become black to white in
all, which is a choice and no paper's.
"""

import re
from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.layouts.layout import Layout, always, files_in, folders_in, numbered, paired, together
from trainer.data.slices import slices_in
from trainer.data.splits.folders import Pair, Survey

PARTS: dict[str, Part] = {"training": "train", "testing": "test"}
ENDING, MASK = ".nii.gz", "_gt.nii.gz"
_PATIENT = re.compile(r"patient\d+")
_FRAME = re.compile(r"(patient\d+_frame\d+)(_gt)?\.nii\.gz")


def recognise(root: Path) -> str | None:
    """By folders of patients in training or testing."""
    there = [name for name in PARTS if _patients(root / name)]
    return f"it holds folders patient... in {' and '.join(there)}" if there else None


def pairs_in(root: Path) -> Survey:
    """A pair a slice; a folder that is alone, or the only one with masks, is not divided."""
    there = [name for name in PARTS if _patients(root / name)]
    masked = [name for name in there if any(_frames(folder)[1] for folder in _patients(root / name))]
    surveys = [_part(root / name, PARTS[name] if len(masked) > 1 else None) for name in masked]
    bare = [f"{name}: {len(_patients(root / name))} patients without masks" for name in there if name not in masked]
    return together(root, [*surveys, Survey([], bare)], [root / name for name in there])


def _part(folder: Path, part: Part | None) -> Survey:
    pairs, left = [], []
    for patient in _patients(folder):
        images, masks = _frames(patient)
        for frame, image, mask in paired(patient, images, masks):
            pairs += [
                Pair(_slice(image, number), _slice(mask, number), part, group=patient.name, case=frame)
                for number in range(slices_in(image))
            ]
        others = [
            path.name
            for path in sorted(patient.iterdir())
            if path not in images.values() and path not in masks.values() and not _of_the_set(path)
        ]
        left += [f"{folder.name}/{patient.name}: {', '.join(others)}"] if others else []
    return Survey(pairs, left)


def _slice(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}#{number}")


def _frames(patient: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Frames and their masks, by the frame's name."""
    matches = [(_FRAME.fullmatch(path.name), path) for path in files_in(patient, [ENDING])]
    images = {match[1]: path for match, path in matches if match and not match[2]}
    return images, {match[1]: path for match, path in matches if match and match[2]}


def _of_the_set(path: Path) -> bool:
    return path.name == "Info.cfg" or path.name.endswith("_4d.nii.gz") or path.name.startswith(".")


def _patients(folder: Path) -> list[Path]:
    return [sub for sub in folders_in(folder) if _PATIENT.fullmatch(sub.name)]


LAYOUT = Layout(
    title="ACDC: the heart in MRI",
    terms="research, registration at https://www.creatis.insa-lyon.fr/Challenge/acdc (from memory)",
    recognise=recognise,
    survey=pairs_in,
    settings=always(
        name="pictures",
        classes=numbered("background", "right-ventricle", "myocardium", "left-ventricle"),
        channels=1,
        bits=16,
        window=[0, 1000],
    ),
    advice="intensities 0 to 1000 become black to white; change window in [run.data] where your files hold others",
)
