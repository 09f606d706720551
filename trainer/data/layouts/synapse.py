"""Synapse, also BTCV: abdominal CT of eight organs, slice by slice, as TransUNet's authors give it away (Chen et al.
2021, arXiv 2102.04306).

train_npz/case<4 digits>_slice<3 digits>.npz    arrays image and label: 2211 slices of 18 cases
test_vol_h5/case<4 digits>.npy.h5               data sets image and label, slices first: 12 cases
lists/                                          not needed

Values are clipped to -125..275 HU and lie between 0 and 1. A row is a slice; `case0001.npy.h5#17` is the slice 17,
counted from 0. A case is group and volume. The organs are numbered as in TransUNet's files (said by several who use
them); another numbering is the layout synapse-original, and nothing in the files tells the two apart.
"""

import re
from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.files import some
from trainer.data.layouts.layout import Layout, Settings, always, files_in, left_in, numbered, together
from trainer.data.slices import slices_in
from trainer.data.splits.folders import Pair, Survey
from trainer.errors import DataError, counted

TRAIN, TEST, LISTS = "train_npz", "test_vol_h5", "lists"
_SLICE = re.compile(r"(case\d+)_slice\d+\.npz")
_VOLUME = re.compile(r"(case\d+)\.npy\.h5")


def recognise(root: Path, behind: str = "") -> str | None:
    """By the names of its folders and of the files in them."""
    there = [name for name in (TRAIN, TEST) if _files(root / f"{name}{behind}")]
    return f"it holds {' and '.join(f'{name}{behind}' for name in there)}" if there else None


def pairs_in(root: Path, behind: str = "") -> Survey:
    """A pair a slice; slices and volumes that stand alone are not divided. Raises DataError for a case in both."""
    train, test = root / f"{TRAIN}{behind}", root / f"{TEST}{behind}"
    slices, volumes = _files(train), _files(test)
    both = sorted({case for case, _ in slices} & {case for case, _ in volumes})
    if both:
        raise DataError(
            f"{root}: {counted(len(both), 'case')} in {train.name} and in {test.name} ({some(both)}); keep one of each"
        )
    alone = not (slices and volumes)
    surveys = []
    if slices:
        surveys.append(_rows([(path, case) for case, path in slices], None if alone else "train", train))
    if volumes:
        numbered_slices = [
            (path.with_name(f"{path.name}#{number}"), case)
            for case, path in volumes
            for number in range(slices_in(path))
        ]
        surveys.append(_rows(numbered_slices, None if alone else "test", test))
    return together(root, surveys, [train, test, root / LISTS])


def _rows(files: list[tuple[Path, str]], part: Part | None, folder: Path) -> Survey:
    taken = {path.with_name(path.name.partition("#")[0]) for path, _ in files}
    pairs = [Pair(path, path, part, group=case, case=case) for path, case in files]
    return Survey(pairs, left_in(folder, taken))


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Case and file of each slice or volume in a folder, by name."""
    files = files_in(folder, (".npz", ".h5"))
    matches = [(_SLICE.fullmatch(path.name) or _VOLUME.fullmatch(path.name), path) for path in files]
    return [(match[1], path) for match, path in matches if match]


def slices(classes: list[dict[str, object]]) -> Settings:
    """Settings of grey slices whose files hold values from 0 to 1."""
    return {"name": "pictures", "classes": classes, "channels": 1, "bits": 16}


TERMS = "Synapse's agreement, no passing on; registration at https://www.synapse.org (syn3193805)"
ORGANS = ("aorta", "gallbladder", "left-kidney", "right-kidney", "liver", "pancreas", "spleen", "stomach")

LAYOUT = Layout(
    title="Synapse: eight organs in CT, numbered by TransUNet",
    terms=TERMS,
    recognise=recognise,
    survey=pairs_in,
    settings=always(**slices(numbered("background", *ORGANS))),
    advice="aorta is 1 and stomach 8 here; files that keep the original numbers (spleen 1, aorta 8) need --layout "
    "synapse-original",
)
