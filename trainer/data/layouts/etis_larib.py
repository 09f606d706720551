"""ETIS-LaribPolypDB: polyps (Silva et al. 2014, International Journal of Computer Assisted Radiology and Surgery 9).

ETIS-LaribPolypDB/images/*.png, masks/*.png (equal names): the usual re-pack
ETIS-LaribPolypDB/<k>.tif, Ground Truth/p<k>.tif: the official form, from memory

196 frames of 34 sequences; masks hold 0 and 255.
"""

from pathlib import Path

from trainer.data.layouts.layout import Layout, between, left_in, paired, pictures_in, together, two_folders
from trainer.data.splits.folders import Pair, Survey

NAMES = ("ETIS-LaribPolypDB", "ETIS-Larib")
INNER, MASKS = "ETIS-LaribPolypDB", "Ground Truth"


def recognise(root: Path) -> str | None:
    """By the folder's name and its folders, or by the official folders."""
    if root.name in NAMES and (root / "images").is_dir() and (root / "masks").is_dir():
        return f"it has images, masks and the name {root.name}"
    frames = _frames(root)
    if frames is None or not between(pictures_in(root / MASKS), before="p"):
        return None
    return f"it holds {MASKS} with p<number>.tif beside frames <number>.tif"


def pairs_in(root: Path) -> Survey:
    """All pairs; the set has no parts."""
    frames = _frames(root)
    if frames is None:
        images, masks = root / "images", root / "masks"
        return together(root, [two_folders(images, masks)], [images, masks])
    if frames != root:
        return together(root, [two_folders(frames, root / MASKS, before="p")], [frames, root / MASKS])
    images_by, masks_by = between(pictures_in(frames)), between(pictures_in(root / MASKS), before="p")
    pairs = [Pair(image, mask, None) for _, image, mask in paired(root, images_by, masks_by)]
    left = left_in(frames, images_by.values()) + left_in(root / MASKS, masks_by.values())
    return Survey(pairs, left)


def _frames(root: Path) -> Path | None:
    """The folder of frames of the official form: that beside the masks, or the one that holds both."""
    if not (root / MASKS).is_dir():
        return None
    tries = (root / INNER, root)
    return next((place for place in tries if any(name.isdecimal() for name in between(pictures_in(place)))), None)


LAYOUT = Layout(
    title="ETIS-LaribPolypDB: polyps",
    terms="research (from memory); https://polyp.grand-challenge.org (not checked)",
    recognise=recognise,
    survey=pairs_in,
    advice="its frames are of 34 sequences, and the archive does not say which: name them with --groups FILE, "
    "or frames of one sequence train and test",
)
