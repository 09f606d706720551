"""What layouts of volumes share: NIfTI files by their names, lists of cases in JSON, and settings of [run.data]."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.data.dataset import Part
from trainer.data.files import CHANNEL, some
from trainer.data.layouts.layout import Settings, files_in, left_in, paired
from trainer.data.splits.folders import Pair, Survey
from trainer.errors import DataError, counted

ENDINGS = (".nii", ".nii.gz")
IMAGES, LABELS = "imagesTr", "labelsTr"
WIDE = (-1000, 1000)
"""HU that become 0 and 1 where a data set says that it is CT and nothing of organs."""
_CHANNEL = re.compile(r"(.*[_-])([A-Za-z0-9]+)(\.nii(?:\.gz)?)", re.IGNORECASE)
LISTS: tuple[tuple[str, Part], ...] = (("training", "train"), ("validation", "validation"), ("test", "test"))


def stem_of(path: Path) -> str:
    """A file's name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def volumes_in(folder: Path) -> dict[str, Path]:
    """The NIfTI files right in a folder by their names without ending. Raises DataError where two have one name."""
    by_stem: dict[str, Path] = {}
    for path in files_in(folder, ENDINGS):
        stem = stem_of(path)
        if stem in by_stem:
            raise DataError(f"{path}: has the same name as {by_stem[stem].name}; remove one")
        by_stem[stem] = path
    return by_stem


def volume_pairs(
    images: Path,
    labels: Path,
    part: Part | None,
    *,
    image_name: Callable[[str], str] = str,
    label_name: Callable[[str], str] = str,
) -> Survey:
    """The pairs of two folders; each is a group of its own. image_name, label_name: what of a file's name both share.

    Raises DataError for lone halves.
    """
    pictures = {image_name(stem): path for stem, path in volumes_in(images).items()}
    masks = {label_name(stem): path for stem, path in volumes_in(labels).items()}
    pairs = [Pair(image, mask, part, group=name) for name, image, mask in paired(images.parent, pictures, masks)]
    return Survey(pairs, left_in(images, pictures.values()) + left_in(labels, masks.values()))


def table_in(path: Path) -> dict[str, Any]:
    """A JSON file that holds a table. Raises DataError."""
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(table, dict):
        raise DataError(f"{path}: expected a table, got {type(table).__name__}")
    return table


def list_in(root: Path) -> Path | None:
    """The JSON file of a folder that lists cases to train on; dataset.json before dataset_0.json before others."""
    files = sorted(root.glob("*.json"), key=lambda path: (path.name != "dataset.json", path.name))
    return next((path for path in files if b'"training"' in path.read_bytes() and _entries(path, "training")), None)


def _entries(path: Path, key: str) -> list[Mapping[str, Any]]:
    """The entries of a list that have an image and a label; none where the file is no such list."""
    try:
        listed = table_in(path).get(key, [])
    except DataError:
        return []
    kept = listed if isinstance(listed, list) else []
    return [entry for entry in kept if isinstance(entry, dict) and "image" in entry and "label" in entry]


def listed_pairs(root: Path, path: Path, group: Callable[[Path], str] = stem_of) -> Survey:
    """The cases of a list: `training`, `validation` and `test`, each with entries {image, label}, and a fold where
    entries have one: fold 0 validates. Paths start at the list's folder.

    group: the patient of a label file. Raises DataError for files that are not there.
    """
    by_part = {part: _entries(path, key) for key, part in LISTS}
    divided = sum(bool(entries) for entries in by_part.values()) > 1
    pairs = []
    for part, entries in by_part.items():
        folds = any("fold" in entry for entry in entries)
        for entry in entries:
            own: Part | None = part if divided else None
            if folds and part == "train":
                own = "validation" if entry.get("fold") == 0 else "train"
            label = root / str(entry["label"])
            pairs.append(Pair(_image(root, entry["image"], path), label, own, group=group(label)))
    missing = [file for pair in pairs for file in (pair.image, pair.mask) if not _is_there(file)]
    if missing:
        names = [file.relative_to(root).as_posix() for file in missing]
        raise DataError(f"{path}: not there: {counted(len(missing), 'file')} of the list ({some(names)})")
    taken = {file for pair in pairs for file in (pair.image, pair.mask)}
    folders = sorted({file.parent for file in taken if file.parent.parent == root})
    return Survey(pairs, [line for folder in folders for line in left_in(folder, taken)])


def _image(root: Path, image: object, where: Path) -> Path:
    """One file, or files of channels as one path with {channel}. Raises DataError where they differ in more."""
    files = [str(name) for name in image] if isinstance(image, list) else [str(image)]
    if len(files) == 1:
        return root / files[0]
    match = _CHANNEL.fullmatch(files[0])
    if match is None or channel_names(files) is None:
        raise DataError(f"{where}: {files}: expected files whose names differ in the channel alone")
    return root / f"{match[1]}{CHANNEL}{match[3]}"


def channel_names(files: Sequence[str]) -> list[str] | None:
    """What tells files of one case apart: the last word of their names; None where that is not all."""
    parts = [match.groups() for match in map(_CHANNEL.fullmatch, files) if match is not None]
    same = len(parts) == len(files) and len({(before, behind) for before, _, behind in parts}) == 1
    return [name for _, name, _ in parts] if same else None


def listed_channels(path: Path) -> list[str] | int:
    """Channels of the first case of a list: names where each has a file of its own, else 1."""
    image = _entries(path, "training")[0]["image"]
    names = channel_names([str(name) for name in image]) if isinstance(image, list) else None
    return 1 if names is None or len(names) == 1 else names


def _is_there(file: Path) -> bool:
    """Whether a file is there; of a path with {channel}, any."""
    return any(file.parent.glob(file.name.replace(CHANNEL, "*"))) if CHANNEL in file.name else file.is_file()


def label_settings(path: Path, labels: object) -> dict[str, Any]:
    """Classes or regions, and what is ignored, as a card's labels say: number -> name (decathlon), or name -> number
    and of regions several (nnU-Net). Raises DataError where there is no background or a value is none."""
    if not isinstance(labels, dict) or not labels:
        raise DataError(f"{path}: labels = {labels!r}: expected names with their values")
    if all(str(key).isdigit() for key in labels):
        labels = {str(name): int(value) for value, name in labels.items()}
    wrong = [name for name, value in labels.items() if not _is_value(value)]
    if wrong:
        raise DataError(
            f"{path}: labels.{wrong[0]} = {labels[wrong[0]]!r}: expected a whole number, or a list of such for a region"
        )
    more: dict[str, Any] = {"ignore": labels["ignore"]} if "ignore" in labels else {}
    named = {name: value for name, value in labels.items() if name != "ignore"}
    if any(isinstance(value, list) for value in named.values()):
        # The background is what no region has.
        return {"regions": {class_name(name): value for name, value in named.items() if value != 0}, **more}
    ordered = sorted((value, name) for name, value in named.items())
    if len(ordered) < 2 or ordered[0][0] != 0:
        raise DataError(f"{path}: labels = {labels!r}: expected 0 for the background, and one value more")
    return {"classes": [{"name": class_name(name), "value": value} for value, name in ordered], **more}


def _is_value(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(entry, int) and not isinstance(entry, bool) for entry in value)
    return isinstance(value, int) and not isinstance(value, bool)


def class_name(name: str) -> str:
    """A name with what names of classes may have: letters, digits, - and _."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_") or "unnamed"


def volume_settings(meaning: Settings, recipe: str, *, channels: int | list[str] = 1, **more: Any) -> Settings:
    """Settings of [run.data] without root and split. meaning: classes or regions, and what is ignored."""
    return {"name": "volumes", **meaning, "channels": channels, "recipe": recipe, **more}


def by_modality(kinds: Iterable[object]) -> tuple[str, dict[str, Any]]:
    """Recipe and changes for images of these kinds: a wide window for CT, else z-score."""
    if {str(kind).upper() for kind in kinds} == {"CT"}:
        return "none", {"window": list(WIDE)}
    return "msd", {}


MODALITY_ADVICE = (
    f"spacing is kept as stored, and of CT {WIDE[0]} to {WIDE[1]} HU become 0 to 1: set spacing (mm) where cases "
    "differ, and a narrower window for soft tissue"
)
