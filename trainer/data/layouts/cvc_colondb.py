"""CVC-ColonDB: polyps (Bernal, Sanchez and Vilarino 2012, Pattern Recognition 45).

CVC-ColonDB/images/*.png, masks/*.png (equal names): 380 frames, the usual re-pack
CVC-ColonDB/<k>.bmp, p<k>.bmp in one folder: 300 frames of 15 sequences, the release of 2012

Masks hold 0 and 255. That the bmp files of the release lie in one folder is not checked.
"""

from pathlib import Path

from trainer.data.layouts.layout import Layout, between, left_in, paired, pictures_in, together, two_folders
from trainer.data.splits.folders import Pair, Survey

NAME = "CVC-ColonDB"


def recognise(root: Path) -> str | None:
    """By the folder's name, and its folders or the names of its pictures."""
    if root.name != NAME:
        return None
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return f"it has images, masks and the name {NAME}"
    return f"it has the name {NAME}, and masks p<number>.bmp beside <number>.bmp" if _released(root)[1] else None


def pairs_in(root: Path) -> Survey:
    """All pairs; the set has no parts."""
    images, masks = root / "images", root / "masks"
    if images.is_dir():
        return together(root, [two_folders(images, masks)], [images, masks])
    both = _released(root)
    pairs = [Pair(image, mask, None) for _, image, mask in paired(root, *both)]
    return Survey(pairs, left_in(root, [path for half in both for path in half.values()]))


def _released(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Frames and masks of the release of 2012, by number."""
    files = [path for path in pictures_in(root) if path.suffix.lower() == ".bmp"]
    masks = {name: path for name, path in between(files, before="p").items() if name.isdecimal()}
    return {name: path for name, path in between(files).items() if name.isdecimal()}, masks


LAYOUT = Layout(
    title="CVC-ColonDB: polyps",
    terms="research (from memory); http://vi.cvc.uab.es/colon-qa/cvccolondb (not checked)",
    recognise=recognise,
    survey=pairs_in,
    advice="its frames are of a few sequences, and the archive does not say which: name them with --groups FILE, "
    "or frames of one sequence train and test",
)
