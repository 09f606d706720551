"""SegPC-2021: plasma cells of multiple myeloma, one crop a cell (Gupta et al. 2023, Medical Image Analysis 83).

TCIA_SegPC_dataset/ (several times, one in the other)/{train,validation,test}/
    x/<k>.bmp        298, 200 and 277 pictures
    y/<k>_<j>.bmp    a file a cell: 0, 20 its cytoplasm, 40 its nucleus; from memory: test has none

A row is a cell: the picture `x/12.bmp` with the mask `y/12_3.bmp`. The network sees a crop around the nucleus, whose
mask is the fourth channel. The target is the whole cell, as the published preparation stores it; the cytoplasm, as the
task is announced, is the layout segpc-2021-cytoplasm. Official training pictures train, of which some validate;
official validation pictures test. All cells of a picture are a group, so that no picture is cut in two; the published
cut, by the order of files, does that.
"""

import re
from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.files import some
from trainer.data.layouts.layout import Layout, always, between, left_in, pictures_in, together
from trainer.data.splits.folders import Pair, Survey
from trainer.errors import DataError, counted

NESTED = "TCIA_SegPC_dataset"
PARTS: dict[str, Part] = {"train": "train", "validation": "test"}
_CELL = re.compile(r"(.+)_\d+")


def recognise(root: Path) -> str | None:
    """By folders x and y in a part."""
    inner = _inner(root)
    there = [name for name in PARTS if _has_both(inner / name)]
    nested = f" in {inner.relative_to(root)}" if inner != root else ""
    return f"it holds {' and '.join(f'{name}/x and {name}/y' for name in there)}{nested}" if there else None


def pairs_in(root: Path) -> Survey:
    """A pair a cell. Pictures without masks of the test part are left out; elsewhere they are an error."""
    inner = _inner(root)
    there = [name for name in PARTS if _has_both(inner / name)]
    surveys = [_cells(inner, name, PARTS[name] if len(there) > 1 else None) for name in there]
    return together(inner, surveys, [inner / name for name in there])


def _cells(inner: Path, name: str, part: Part | None) -> Survey:
    images, masks = between(pictures_in(inner / name / "x")), between(pictures_in(inner / name / "y"))
    matches = {stem: _CELL.fullmatch(stem) for stem in masks}
    cells = {stem: match[1] for stem, match in matches.items() if match}
    lone = sorted(masks[stem].name for stem, image in cells.items() if image not in images)
    bare = sorted(path.name for image, path in images.items() if image not in cells.values())
    if lone or bare:
        lacking = [f"{counted(len(lone), 'mask')} without image ({some(lone)})"] if lone else []
        lacking += [f"{counted(len(bare), 'image')} without mask ({some(bare)})"] if bare else []
        raise DataError(f"{inner / name}: {' and '.join(lacking)}; get the other half, or remove them")
    pairs = [
        Pair(images[image], masks[stem], part, group=f"{name}-{image}")
        for stem, image in sorted(cells.items(), key=lambda item: item[1])
    ]
    left = left_in(inner / name / "x", images.values())
    return Survey(pairs, left + left_in(inner / name / "y", [masks[stem] for stem in cells]))


def _inner(root: Path) -> Path:
    while (root / NESTED).is_dir():
        root = root / NESTED
    return root


def _has_both(folder: Path) -> bool:
    return (folder / "x").is_dir() and (folder / "y").is_dir()


TITLE = "SegPC-2021: plasma cells"
TERMS = "CC BY-NC-SA 4.0 (from memory), registration at https://ieee-dataport.org"
CELL = [{"name": "background", "value": 0}, {"name": "cell", "value": "1-255"}]

LAYOUT = Layout(
    title=f"{TITLE}, the whole cell",
    terms=TERMS,
    recognise=recognise,
    survey=pairs_in,
    settings=always(name="pictures", classes=CELL, channels=4, reader="segpc-cell"),
    advice="the cytoplasm alone is --layout segpc-2021-cytoplasm",
)
