"""CVC-ClinicDB, also CVC-612: polyps (Bernal et al. 2015, Computerized Medical Imaging and Graphics 43).

Original/<1 to 612>.tif, Ground Truth/<1 to 612>.tif (with a space); from memory: PNG/ in newer archives holds both
again as PNG

612 frames of 29 sequences. Which frame is of which sequence is not in the archive. Masks have grey rims: 128 and more
is the polyp.
"""

from pathlib import Path

from trainer.data.layouts.layout import Layout, always, together, two_folders
from trainer.data.splits.folders import Survey

IMAGES, MASKS, AGAIN = "Original", "Ground Truth", "PNG"


def recognise(root: Path) -> str | None:
    """By its two folders; PNG/ holds them where nothing else does."""
    folder = _folder(root)
    if folder is None:
        return None
    return f"it holds {IMAGES} and {MASKS}" + (f" in {AGAIN}" if folder != root else "")


def pairs_in(root: Path) -> Survey:
    """All pairs; the set has no parts."""
    folder = _folder(root) or root
    images, masks = folder / IMAGES, folder / MASKS
    return together(folder, [two_folders(images, masks)], [images, masks, folder / AGAIN])


def _folder(root: Path) -> Path | None:
    tries = (root, root / AGAIN)
    return next((place for place in tries if (place / IMAGES).is_dir() and (place / MASKS).is_dir()), None)


LAYOUT = Layout(
    title="CVC-ClinicDB: polyps",
    terms="research and education (tag of its files), registration at https://polyp.grand-challenge.org (from memory)",
    recognise=recognise,
    survey=pairs_in,
    settings=always(name="polyp", labels="0-127: background, 128-255: object"),
    advice="its frames are of 29 sequences, and the archive does not say which: name them with --groups FILE, "
    "or frames of one sequence train and test",
)
