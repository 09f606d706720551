"""Kvasir-SEG: polyps (Jha et al. 2020, MultiMedia Modeling).

Kvasir-SEG/images/*.jpg, masks/*.jpg (equal names), kavsir_bboxes.json (in this spelling)

1000 pictures. Masks are JPEGs, white on black with grey rims.
"""

from pathlib import Path

from trainer.data.layouts.layout import Layout, together, two_folders
from trainer.data.splits.folders import Survey

NAME = "Kvasir-SEG"
BOXES = "kavsir_bboxes.json"


def recognise(root: Path) -> str | None:
    """By its two folders and the folder's own name or the file of boxes."""
    sign = BOXES if (root / BOXES).is_file() else f"the name {NAME}"
    if not (root.name == NAME or (root / BOXES).is_file()):
        return None
    both = (root / "images").is_dir() and (root / "masks").is_dir()
    return f"it has images, masks and {sign}" if both else None


def pairs_in(root: Path) -> Survey:
    """All pairs; the set has no parts and no groups."""
    images, masks = root / "images", root / "masks"
    return together(root, [two_folders(images, masks)], [images, masks, root / BOXES])


LAYOUT = Layout(
    title="Kvasir-SEG: polyps",
    terms="research and education, other use with permission (from memory); https://datasets.simula.no/kvasir-seg",
    recognise=recognise,
    survey=pairs_in,
)
