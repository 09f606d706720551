"""The precisions that a network is packed in, and the flags that ask for them. Free of torch."""

import argparse
from typing import Literal

LowPrecision = Literal["int8", "fp16", "bf16"]
MARGIN = 0.005
"""Dice that a package of lower precision may lose where nobody says otherwise."""


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The flags that say in which precision a network is packed."""
    parser.add_argument(
        "--precision",
        choices=["fp32", "int8", "fp16", "bf16"],
        default="fp32",
        help="precision of the network; lower ones are timed and scored beside fp32, and bf16 is OpenVINO's "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="DICE",
        help=f"with --precision: how much Dice may be lost, else it is refused (default: {MARGIN:g})",
    )
