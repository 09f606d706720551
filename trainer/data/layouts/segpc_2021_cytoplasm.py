"""SegPC-2021 with the cytoplasm as the target, given the nucleus: the task as it is announced. It lies as that."""

from trainer.data.layouts.layout import Layout, always
from trainer.data.layouts.segpc_2021 import TERMS, TITLE, pairs_in, recognise

CYTOPLASM = [
    {"name": "background", "value": ["0-19", "40-255"]},
    {"name": "cytoplasm", "value": "20-39"},
]

LAYOUT = Layout(
    title=f"{TITLE}, the cytoplasm",
    terms=TERMS,
    recognise=recognise,
    survey=pairs_in,
    settings=always(name="pictures", classes=CYTOPLASM, channels=4, reader="segpc-cytoplasm"),
)
