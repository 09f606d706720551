"""Synapse with the organs' original numbers, as CASCADE's files keep them (Rahman and Marculescu 2023, WACV).

Files lie and are called as those of the layout synapse; CASCADE's own folders are train_npz_new and test_vol_h5_new,
from memory. Five of the thirteen organs are background: oesophagus 5, inferior vena cava 9, portal and splenic vein 10,
and the adrenals 12 and 13. The eight that remain are in CASCADE's order, pancreas (11) as the fifth.
"""

from pathlib import Path

from trainer.data.layouts.layout import Layout, always
from trainer.data.layouts.synapse import TERMS, slices
from trainer.data.layouts.synapse import pairs_in as _pairs_in
from trainer.data.layouts.synapse import recognise as _recognise
from trainer.data.splits.folders import Survey

NEW = "_new"
OTHERS = [0, 5, 9, 10, 12, 13]
NUMBERS = {
    "spleen": 1,
    "right-kidney": 2,
    "left-kidney": 3,
    "gallbladder": 4,
    "pancreas": 11,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
}


def recognise(root: Path) -> str | None:
    """By CASCADE's names of its folders; those of TransUNet are looked at where this layout is asked for."""
    return _recognise(root, NEW) or _recognise(root)


def pairs_in(root: Path) -> Survey:
    """A pair a slice."""
    return _pairs_in(root, NEW if _recognise(root, NEW) else "")


LAYOUT = Layout(
    title="Synapse: eight organs in CT, with their original numbers",
    terms=TERMS,
    recognise=recognise,
    survey=pairs_in,
    settings=always(
        **slices(
            [{"name": "background", "value": OTHERS}, *({"name": name, "value": at} for name, at in NUMBERS.items())]
        )
    ),
    advice="spleen is 1 and aorta 8 here; TransUNet's numbers (aorta 1, stomach 8) need --layout synapse",
)
