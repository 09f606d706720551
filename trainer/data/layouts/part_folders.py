"""Data sets that are split already: {train,validation,test}/{images,masks}, masks with their images' names.

The polyp networks that this program grew out of expect Kvasir-SEG, CVC-ClinicDB, CVC-ColonDB and ETIS-LaribPolypDB in
this form. Folders may be missing, and be called as `trainer.data.splits.folders` says.
"""

from pathlib import Path

from trainer.data.layouts.layout import Layout, folders_in
from trainer.data.splits.folders import PARTS, survey


def recognise(root: Path) -> str | None:
    """By a part that has folders images and masks."""
    there = [
        folder.name
        for folder in folders_in(root)
        if folder.name.lower() in PARTS and all((folder / name).is_dir() for name in ("images", "masks"))
    ]
    return f"{' and '.join(there)} in it {'have' if len(there) > 1 else 'has'} images and masks" if there else None


LAYOUT = Layout(
    title="folders of parts, with images and masks",
    terms="those of the data set",
    recognise=recognise,
    survey=survey,
)
