"""BraTS: gliomas in four MRI sequences, as of 2021 and as given away again since 2023 (Baid et al. 2021).

BraTS2021_<5 digits>/BraTS2021_<5 digits>_{t1,t1ce,t2,flair,seg}.nii.gz          1251 cases; also BraTS20_Training_<3>
BraTS-GLI-<5 digits>-<3 digits>/BraTS-GLI-..._{t1n,t1c,t2w,t2f,seg}.nii.gz       with - before the sequence

Labels: 1 necrotic core, 2 oedema, and enhancing tumour 4 (2021) or 3 (2023): both are read. A patient is the group,
also over several time points. A list of cases beside them (decathlon's form, with a `fold` a case) gives the parts:
fold 0 validates. Channels are in the order of MONAI's list: FLAIR, T1 with contrast, T1, T2.
"""

import re
from pathlib import Path
from typing import NamedTuple

from trainer.data.dataset import Part
from trainer.data.files import CHANNEL, some
from trainer.data.layouts.layout import Layout, Settings, folders_in, together
from trainer.data.layouts.volumes import ENDINGS, list_in, listed_pairs, volume_settings
from trainer.data.splits.folders import Pair, Survey
from trainer.errors import DataError, counted


class _Kind(NamedTuple):
    folder: re.Pattern[str]
    """Of a case; its first group is the patient."""
    channels: tuple[str, ...]
    joint: str


KINDS = (
    _Kind(re.compile(r"(BraTS2021_\d{5}|BraTS20_Training_\d{3})"), ("flair", "t1ce", "t1", "t2"), "_"),
    _Kind(re.compile(r"(BraTS-GLI-\d{5})-\d{3}"), ("t2f", "t1c", "t1n", "t2w"), "-"),
)
REGIONS = {"tumour-core": [1, 3, 4], "whole-tumour": [1, 2, 3, 4], "enhancing": [3, 4]}
"""In the order of the reference code, which knows 1 to 3 alone."""
LABEL = "seg"


def recognise(root: Path) -> str | None:
    """By the names of folders of cases, in it or one folder below."""
    cases = _cases(root)
    return f"it holds folders such as {cases[0][1].name}" if cases else None


def pairs_in(root: Path) -> Survey:
    """All cases that have labels. Raises DataError for sequences that are missing."""
    cases = _cases(root)
    kind = _kind(root, cases)
    tops = list(dict.fromkeys(root / folder.relative_to(root).parts[0] for _, folder in cases))
    listing = list_in(root)
    parts: dict[str, Part | None] = {}
    if listing is not None:
        parts = {pair.group: pair.part for pair in listed_pairs(root, listing, lambda path: path.parent.name).pairs}
    pairs, bare, missing = [], [], []
    for _, folder in cases:
        label, ending = _file(folder, kind, LABEL)
        if label is None:
            bare.append(folder.name)
            continue
        missing += [
            f"{folder.name}: {name}"
            for name in kind.channels
            if not (folder / _named(folder, kind, name, ending)).exists()
        ]
        match = kind.folder.fullmatch(folder.name)
        image = folder / _named(folder, kind, CHANNEL, ending)
        pairs.append(Pair(image, label, parts.get(folder.name), group=match[1] if match else folder.name))
    if missing:
        lacking = f"missing: {counted(len(missing), 'sequence')} ({some(missing)})"
        raise DataError(f"{root}: {lacking}; get them, or remove the cases")
    left = [f"{counted(len(bare), 'case')} without labels ({some(bare)})"] if bare else []
    return together(root, [Survey(pairs, left)], [*tops, *([] if listing is None else [listing])])


def _cases(root: Path) -> list[tuple[_Kind, Path]]:
    """The folders of cases, in the folder or one below."""
    below = folders_in(root)
    for level in (below, [inner for folder in below for inner in folders_in(folder)]):
        cases = [(kind, folder) for folder in level for kind in KINDS if kind.folder.fullmatch(folder.name)]
        if cases:
            return cases
    return []


def _kind(root: Path, cases: list[tuple[_Kind, Path]]) -> _Kind:
    kinds = {kind.joint: kind for kind, _ in cases}
    if len(kinds) != 1:
        raise DataError(
            f"{root}: holds cases of 2021 and of 2023, whose sequences are named differently; many are the same "
            "patients: give one folder at a time"
            if kinds
            else f"{root}: no folders BraTS2021_<5 digits> or BraTS-GLI-<5 digits>-<3 digits>"
        )
    return next(iter(kinds.values()))


def _file(folder: Path, kind: _Kind, name: str) -> tuple[Path | None, str]:
    """A file of a case, packed or not, and its ending; None where it is not there."""
    for ending in reversed(ENDINGS):
        path = folder / _named(folder, kind, name, ending)
        if path.exists():
            return path, ending
    return None, ENDINGS[-1]


def _named(folder: Path, kind: _Kind, name: str, ending: str) -> str:
    return f"{folder.name}{kind.joint}{name}{ending}"


def settings_in(root: Path) -> Settings:
    """The three regions that are scored; the sequences by their names."""
    return volume_settings({"regions": REGIONS}, "brats21", channels=list(_kind(root, _cases(root)).channels))


LAYOUT = Layout(
    title="BraTS: gliomas in MRI, volumes",
    terms="challenge data policy, no passing on; registration at https://www.synapse.org",
    recognise=recognise,
    survey=pairs_in,
    settings=settings_in,
    advice="regions overlap; for classes that exclude each other give --classes "
    "'background=0,necrotic-core=1,oedema=2,enhancing=3+4'. "
    'z-score is of the whole case: zscore = "nonzero-patch" takes each training patch\'s own, as the reference code',
)
