"""A package as whoever runs it sees it: preprocessing, network and threshold; numpy and onnxruntime, no torch."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.config import Frozen
from models.config.network import absent
from trainer.config import MOST_CLASSES, Intensity
from trainer.data.classes import LabelClass, numbered, palette_colour, rgb
from trainer.data.dataset import Picture, Pixels, Placement
from trainer.data.letterbox import fit_image, place
from trainer.data.reading import Reading
from trainer.errors import UserError
from trainer.package.onnx_runtime import Floats, Network

WEIGHTS, NETWORK, PREPROCESSING, RUN = "weights.safetensors", "network.onnx", "preprocessing.json", "run.json"
PARITY, CARD, SUMS = "parity.json", "model_card.md", "SHA256SUMS"
FILES = (WEIGHTS, NETWORK, PREPROCESSING, RUN, PARITY, CARD)
"""What a package holds beside the sums of these."""

DEFAULT_THRESHOLD = 0.5
"""Threshold for two classes where nobody chose another."""
Engine = Literal["openvino-bf16"] | None
COMPUTES = "what runs the network: OpenVINO in bfloat16; none: onnxruntime, in what the file holds"
Share = Annotated[float, Field(gt=0.0, lt=1.0)]

LARGEST_SIDE = 16384
"""Pixels of a network's input that are believed: more is a mistake, and would take all memory."""
Mean = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
Deviation = Annotated[float, Field(ge=1e-4, le=1000, allow_inf_nan=False)]

Source = Literal["default", "given", "validation"]


Channels = Literal["RGB", "grey"] | tuple[str, ...]
CHANNELS: Mapping[int, Channels] = {1: "grey", 3: "RGB", 4: ("red", "green", "blue", "fourth")}
"""What the channels of a picture are called, by their number."""
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=100)]
Colour = Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]


class Preprocessing(Frozen):
    """What happens to a picture before the network, and to logits after it.

    Schema 1 is of two classes without colours of their own, in RGB with 8 bits: whatever read it reads it still. Schema
    3 is of regions, which overlap, and 5 of regions whose thresholds differ.
    """

    schema_: Literal[1, 2, 3, 5, 8] = Field(
        default=1,
        alias="schema",
        description="1, or 2 where a key is needed that 1 has not; 3: regions; 5: regions with thresholds of their "
        "own; 8: any of these, computed by another engine",
    )
    size: int = Field(ge=1, le=LARGEST_SIDE, description="side of the network's input, pixels")
    fit: Literal["letterbox", "stretch"] = Field(description="how a picture is brought to size x size")
    channels: Channels = Field(default="RGB", description="order of the input's channels: RGB, grey, or their names")
    bits: Literal[8, 16] = Field(
        default=8, exclude_if=lambda bits: bits == 8, description="of a channel: 0 to 255 or 0 to 65535 is [0, 1]"
    )
    window: tuple[Intensity, Intensity] | None = Field(
        default=None, exclude_if=absent, description="of slices: the intensities that become black and white"
    )
    mean: tuple[Mean, ...] = Field(description="subtracted from channels in [0, 1]")
    std: tuple[Deviation, ...] = Field(description="what the difference is divided by")
    classes: tuple[Name, ...] = Field(
        min_length=1, max_length=MOST_CLASSES, description="names of the labels 0, 1, ..., or of the regions"
    )
    regions: bool = Field(
        default=False,
        exclude_if=lambda regions: not regions,
        description="the classes are regions, which overlap: a pixel is in each whose sigmoid is above the threshold",
    )
    painted: tuple[Name, ...] | None = Field(
        default=None,
        exclude_if=absent,
        description="regions from the outermost in: each lies in the one before, and one picture holds all; none: a "
        "mask is a picture a region",
    )
    colours: tuple[Colour, ...] | None = Field(
        default=None, exclude_if=absent, description="#rrggbb of the labels, for pictures and palettes"
    )
    threshold: float | None = Field(
        gt=0.0, lt=1.0, description="two classes: a pixel is foreground above this probability; more: the likeliest"
    )
    thresholds: tuple[Share, ...] | None = Field(
        default=None, exclude_if=absent, description="of each region, where they differ; `threshold` is null then"
    )
    threshold_from: Source = Field(description="default 0.5, given by hand, or chosen on validation images")
    computes: Engine = Field(default=None, exclude_if=absent, description=COMPUTES)

    @model_validator(mode="after")
    def _threshold_fits(self) -> Self:
        if (self.computes is not None) != (self.schema_ == 8):
            raise ValueError(f"computes: of schema 8 alone, which has it, not {self.schema_}")
        if self.schema_ != 8 and self.regions != (self.schema_ in (3, 5)):
            raise ValueError(
                f"schema = {self.schema_}: 3 is of regions, which this {'has' if self.regions else 'lacks'}"
            )
        if self.schema_ != 8 and (self.thresholds is not None) != (self.schema_ == 5):
            raise ValueError(f"thresholds: of schema 5 alone, which is of regions with their own, not {self.schema_}")
        if self.regions:
            check_thresholds(self.threshold, self.thresholds, len(self.classes))
        elif len(self.classes) < 2:
            raise ValueError(f"classes: {len(self.classes)} named; expected 2 or more, or regions = true")
        elif (self.threshold is None) != (len(self.classes) > 2):
            raise ValueError(f"threshold = {self.threshold}: two classes have one, {len(self.classes)} have none")
        return self

    @model_validator(mode="after")
    def _painted_are_regions(self) -> Self:
        if self.painted is not None and not (self.regions and sorted(self.painted) == sorted(self.classes)):
            raise ValueError(f"painted = {list(self.painted)}: expected the regions, each of them once")
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.channel_count not in CHANNELS:
            raise ValueError(f"channels: {self.channel_count} names; expected 1, 3 or 4")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channel_count:
                raise ValueError(f"{name} = {list(values)}: expected {self.channel_count} values, one a channel")
        if self.colours is not None and len(self.colours) != len(self.classes):
            raise ValueError(f"colours: {len(self.colours)} of {len(self.classes)} classes; expected one a class")
        return self

    @property
    def least(self) -> tuple[float, ...]:
        """Probabilities above which a pixel is in the object: one, one a region, or none."""
        return self.thresholds or (() if self.threshold is None else (self.threshold,))

    @property
    def channel_count(self) -> int:
        """Channels of the network's input."""
        return {"grey": 1, "RGB": 3}[self.channels] if isinstance(self.channels, str) else len(self.channels)

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """The labels' names and colours; colours of the fixed palette where none are given."""
        if self.regions:
            usual = tuple(LabelClass(name, palette_colour(at)) for at, name in enumerate(self.classes, 1))
        else:
            usual = numbered((), len(self.classes))
        colours = [known.colour for known in usual] if self.colours is None else map(rgb, self.colours)
        return tuple(LabelClass(name, colour) for name, colour in zip(self.classes, colours, strict=True))

    @property
    def order(self) -> tuple[int, ...] | None:
        """The places of `painted` among the regions."""
        return None if self.painted is None else tuple(self.classes.index(name) for name in self.painted)

    def read_picture(self, path: Path) -> Picture:
        """The picture (H, W, channels) of a file. Raises DataError."""
        return Reading(None, self.classes, self.channel_count, self.bits, self.window).image(path)


@dataclass(frozen=True)
class Packed:
    """Pictures to masks."""

    preprocessing: Preprocessing
    network: Network

    def logits(self, images: Sequence[Picture]) -> list[Floats]:
        """Pictures (H, W, channels) of any sizes to logits (classes, H, W) at those sizes."""
        p = self.preprocessing
        places = [place(image.shape[0], image.shape[1], p.size, p.fit) for image in images]
        fitted = [fit_image(image, at, p.size) for image, at in zip(images, places, strict=True)]
        outputs = self.network(normalised(np.stack(fitted), p))
        return [native(logits, at) for logits, at in zip(outputs, places, strict=True)]

    def masks(self, images: Sequence[Picture]) -> list[Pixels]:
        """Pictures (H, W, channels) to labels (H, W), of regions to their masks (regions, H, W)."""
        p = self.preprocessing
        return [labels(logits, p.least, regions=p.regions) for logits in self.logits(images)]


def normalised(images: Picture, p: Preprocessing) -> Floats:
    """(N, S, S, C) to (N, C, S, S) float32: over 255 (of 16 bits 65535), less the mean, over the deviation."""
    top = 2**p.bits - 1
    mean, std = (np.array(values, np.float64) * top for values in (p.mean, p.std))
    out = (images.astype(np.float32) - mean.astype(np.float32)) / std.astype(np.float32)
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def native(logits: Floats, at: Placement) -> Floats:
    """Logits (classes, size, size) to (classes, height, width): padding cut off, the rest resized bilinearly with
    half-pixel centres."""
    inner = logits[:, at.top : at.top + at.inner_height, at.left : at.left + at.inner_width]
    if inner.shape[1:] == (at.height, at.width):
        return inner
    size = (at.width, at.height)
    return np.stack([cv2.resize(each, size, interpolation=cv2.INTER_LINEAR) for each in inner])


def check_thresholds(threshold: float | None, thresholds: Sequence[float] | None, regions: int) -> None:
    """Raise ValueError where regions have neither one threshold nor one each."""
    if threshold is None and thresholds is None:
        raise ValueError("threshold: missing; regions have one")
    if thresholds is not None and (threshold is not None or len(thresholds) != regions):
        raise ValueError(
            f"thresholds = {list(thresholds)}: expected one for each of {regions} regions, and no threshold"
        )


def labels(logits: NDArray[np.float32], thresholds: Sequence[float], *, regions: bool = False) -> Pixels:
    """(classes, H, W) to labels (H, W): the likeliest; of two classes foreground where its probability is above the
    threshold. Of regions to the mask of each, (regions, H, W), of what is above its threshold, or above that of all."""
    if regions:
        least = np.array([math.log(each / (1 - each)) for each in thresholds or (DEFAULT_THRESHOLD,)], logits.dtype)
        return (logits > least[:, None, None]).astype(np.uint8)
    if not thresholds:
        mask: Pixels = logits.argmax(0).astype(np.uint8)
    else:
        threshold = thresholds[0]
        # The difference of two logits is the logit of the probability; a comparison with 0 is exact.
        mask = (logits[1] - logits[0] > math.log(threshold / (1 - threshold))).astype(np.uint8)
    return mask


def check_sums(folder: Path) -> None:
    """Hold every file against the sums. Raises UserError for the first that is missing or was changed."""
    path = folder / SUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"{folder}: no package ({SUMS}: {error.strerror}); `python -m trainer package WEIGHTS DIR` writes one"
        ) from error
    noted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in FILES:
        if name not in noted:
            raise UserError(f"{path}: {name}: missing; the package is not whole, copy it again")
        try:
            digest = _sum(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name}: {error.strerror}; the package is not whole, copy it again") from error
        if digest != noted[name]:
            raise UserError(
                f"{folder / name}: was changed: sha256 is {digest[:12]}..., {SUMS} has {noted[name][:12]}..."
            )


def sums(folder: Path, names: Sequence[str]) -> str:
    """What `sha256sum -c` reads."""
    return "".join(f"{_sum(folder / name)}  {name}\n" for name in names)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def document(value: Mapping[str, object]) -> str:
    """JSON as the files of a package have it."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
