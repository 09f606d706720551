"""Data sets of volumes, as a study file describes them."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, StrictInt, field_validator, model_validator

from models.config import Frozen
from models.config.network import absent
from trainer.config.classes import MOST_CLASSES, ClassConfig, ClassValue, Intensity, RegionConfig, listed_regions

VolumeRecipe = Literal["btcv", "word", "brats21", "msd", "nnunet", "none"]
Orientation = Literal["RAS", "LPS", "stored"]
ZScore = Literal["none", "volume", "nonzero", "nonzero-patch"]
GridRule = Literal["first-centre", "edge-to-edge"]
Millimetres = Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False)]
Side = Annotated[StrictInt, Field(ge=1, le=1024)]
"""Of a patch, in voxels."""
MOST_CHANNELS = 64


PatchChanges = Literal["none", "flips", "standard", "strong"]
Tiling = Literal["clamped", "spread"]
Weights = Literal["constant", "gaussian", "nnunet"]
Scheme = Literal[
    "CTNormalization",
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
]
"""nnU-Net's names."""


class ChannelScheme(Frozen):
    """How nnU-Net normalises a channel; its plans have these values."""

    scheme: Scheme = Field(description="its name in normalization_schemes")
    masked: bool = Field(
        default=False, exclude_if=lambda masked: not masked, description="z-score: use_mask_for_norm of the plans"
    )
    low: Intensity | None = Field(
        default=None, exclude_if=absent, description="CT: percentile_00_5 of the plans; below it is clipped"
    )
    high: Intensity | None = Field(default=None, exclude_if=absent, description="CT: percentile_99_5")
    mean: Intensity | None = Field(default=None, exclude_if=absent, description="CT: of the foreground")
    std: Intensity | None = Field(default=None, exclude_if=absent, description="CT: of the foreground, above 0")

    @model_validator(mode="after")
    def _has_its_values(self) -> Self:
        given = {name: getattr(self, name) for name in ("low", "high", "mean", "std")}
        if self.scheme == "CTNormalization":
            lacking = next((name for name, value in given.items() if value is None), None)
            if lacking is not None:
                raise ValueError(f"schemes: CTNormalization has no {lacking}; take it from the plans")
            if not (self.low or 0.0) < (self.high or 0.0) or not (self.std or 0.0) > 0:
                raise ValueError("schemes: CTNormalization: expected low below high, and std above 0")
        elif any(value is not None for value in given.values()):
            raise ValueError(f"schemes: {self.scheme} takes no low, high, mean or std; leave them out")
        if self.masked and self.scheme != "ZScoreNormalization":
            raise ValueError(f"schemes: {self.scheme} knows no mask; leave masked out")
        return self


class VolumeData(Frozen):
    """Volumes with labels, a case a row of the split file; each is prepared once into the cache and cut into patches.

    Axes are x, y, z with z last. What the recipe says of a field stands where that field is left out.
    """

    name: Literal["volumes"]
    root: str = Field(description="folder that the split file's paths start from; $VARIABLES come from the environment")
    split: str = Field(description="the split file, written by `search init` or `trainer data split`")
    classes: tuple[ClassConfig, ...] = Field(
        default=(),
        max_length=MOST_CLASSES,
        description="in the order of the network's output; the first is ground. With regions: the names that these may "
        "have for what label files hold, or nothing",
    )
    regions: tuple[RegionConfig, ...] = Field(
        default=(),
        max_length=MOST_CLASSES,
        exclude_if=lambda regions: not regions,
        description="objects that overlap, in the order of the network's output, such as { core = [1, 3], whole = [1, "
        "2, 3] }; losses and scores then take each by itself; none: every voxel has one class",
    )
    ignore: ClassValue = Field(
        default=None,
        description="what in a label file is neither learned nor scored, as a class's value; none: nothing",
    )
    channels: tuple[str, ...] | Annotated[StrictInt, Field(ge=1, le=MOST_CHANNELS)] = Field(
        default=1,
        description="of an image: how many (the fourth axis of a file), or the names that stand in the place of "
        "{channel} in its path, a file each",
    )
    recipe: VolumeRecipe = Field(default="none", description="a named way to prepare cases; the fields below change it")
    orientation: Orientation | None = Field(
        default=None, description="where the axes go; stored: as in the file, whose last axis then is z; none: recipe's"
    )
    spacing: tuple[Millimetres, Millimetres, Millimetres] | Literal["native"] | None = Field(
        default=None, description="millimetres between voxels along x, y, z; native: each case's own; none: recipe's"
    )
    grid: GridRule | None = Field(
        default=None,
        description="where the voxels of a new spacing lie: first-centre keeps the first voxel's centre (MONAI, "
        "SimpleITK), edge-to-edge the volume's outer edges (nnU-Net); none: recipe's",
    )
    window: tuple[Intensity, Intensity] | Literal["off"] | None = Field(
        default=None, description="the intensities that become 0 and 1, clipped; off: none is; none: recipe's"
    )
    zscore: ZScore | None = Field(
        default=None,
        description="mean 0 and deviation 1 by channel, over all voxels of the prepared case (volume) or those that "
        "are not 0 (nonzero); nonzero-patch: over those of each training patch; none: recipe's",
    )
    crop: Literal["off", "positive", "nonzero"] | None = Field(
        default=None,
        description="cut to the box of voxels above 0 (positive, after the window) or other than 0 in any channel; "
        "none: recipe's",
    )
    margin: Annotated[StrictInt, Field(ge=0, le=1024)] | None = Field(
        default=None, description="voxels that a crop leaves around the box; none: recipe's"
    )
    multiple: tuple[Side, Side, Side] | None = Field(
        default=None, description="sides that are padded up to multiples of these; none: recipe's"
    )
    schemes: tuple[ChannelScheme, ...] = Field(
        default=(),
        exclude_if=lambda schemes: not schemes,
        description='with recipe = "nnunet" alone: how each channel is normalised, as the plans of nnU-Net have it',
    )
    storage: Literal["float32", "float16"] = Field(default="float32", description="of prepared images on the disk")
    patch: tuple[Side, Side, Side] = Field(default=(96, 96, 96), description="sides of a patch in voxels: x, y, z")
    patches: PositiveInt = Field(default=4, le=1000, description="patches of each case in an epoch")
    foreground: float = Field(
        default=0.5, ge=0.0, le=1.0, description="share of the patches that lie around a voxel that is not ground"
    )
    augment: PatchChanges = Field(
        default="flips",
        description="a named preset of changes to the patches: flips alone; standard and strong also turn them and "
        "change intensities, as ACF-BCKD does for CT and for BraTS",
    )
    swap: tuple[tuple[str, str], ...] = Field(
        default=(), description="pairs of classes that change places where left and right are flipped"
    )
    views: PositiveInt | None = Field(
        default=None,
        le=1000,
        description="fixed patches and augmentations of each case, one an epoch in turn, whose teacher logits are "
        "stored; none: new ones in every epoch",
    )
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0, description="share of a window that its neighbour covers, too")
    weights: Weights = Field(
        default="constant", description="of the voxels of overlapping windows; nnunet: nnU-Net's own Gaussian"
    )
    tiling: Tiling = Field(
        default="clamped",
        exclude_if=lambda tiling: tiling == "clamped",
        description="windows in steps of equal length, the last at the end (MONAI); or spread evenly (nnU-Net)",
    )

    @property
    def size(self) -> int:
        """The longest side of a patch in voxels."""
        return max(self.patch)

    @property
    def fit(self) -> Literal["letterbox"]:
        """How a case smaller than a patch becomes one: it is padded, never stretched."""
        return "letterbox"

    @field_validator("regions", mode="before")
    @classmethod
    def _as_list(cls, regions: Any) -> Any:
        return listed_regions(regions)

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        for field, entries in (("classes", self.classes), ("regions", self.regions)):
            given = [known.name for known in entries]
            double = next((name for name in given if given.count(name) > 1), None)
            if double is not None:
                raise ValueError(f"{field}: two are named {double!r}; rename one")
            lacking = next((known.name for known in entries if known.value is None), None)
            if lacking is not None:
                raise ValueError(f"{field}: {lacking!r} has no value; label files of volumes hold numbers")
        if not self.regions and len(self.classes) < 2:
            raise ValueError(
                f"classes: {len(self.classes)} named, expected 2 or more, the ground first; for objects that overlap "
                "name regions"
            )
        names = [known.name for known in self.regions or self.classes]
        swapped = [name for pair in self.swap for name in pair]
        wrong = next((name for name in swapped if name not in names or swapped.count(name) > 1), None)
        if wrong is not None:
            raise ValueError(f"swap: {wrong!r} is no class, or is in two pairs; known: {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _codes_have_an_effect(self) -> Self:
        idle = self.classes if self.regions else self.classes[:1]
        coded = next((known.name for known in idle if known.code is not None), None)
        if coded is not None:
            what = (
                "one beside regions, which have codes of their own"
                if self.regions
                else "the ground, which is no segment"
            )
            raise ValueError(f"classes: {coded!r} has a code and is {what}; leave the code out")
        return self

    @model_validator(mode="after")
    def _nnunet_is_whole(self) -> Self:
        if self.recipe != "nnunet":
            if self.schemes:
                raise ValueError(f'schemes: recipe = {self.recipe!r} takes none; set recipe = "nnunet"')
            return self
        fixed = ("orientation", "grid", "window", "zscore", "crop", "margin", "multiple")
        given = next((name for name in fixed if getattr(self, name) is not None), None)
        if given is not None:
            raise ValueError(f'{given}: recipe = "nnunet" fixes it as nnU-Net does; leave it out')
        if not isinstance(self.spacing, tuple):
            raise ValueError('spacing: recipe = "nnunet" needs that of the plans, turned round to x, y, z')
        count = self.channels if isinstance(self.channels, int) else len(self.channels)
        if len(self.schemes) != count:
            raise ValueError(f"schemes: {len(self.schemes)} for {count} channels; expected one a channel")
        return self

    @model_validator(mode="after")
    def _channels_are_named_once(self) -> Self:
        if not isinstance(self.channels, int):
            if not self.channels or len(set(self.channels)) < len(self.channels):
                raise ValueError(f"channels = {list(self.channels)}: expected names that differ, or a number")
            plain = all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) for name in self.channels)
            if not plain or len(self.channels) > MOST_CHANNELS:
                raise ValueError(
                    f"channels = {list(self.channels)}: at most {MOST_CHANNELS} names of letters, digits, - and _"
                )
        if isinstance(self.window, tuple) and not self.window[0] < self.window[1]:
            raise ValueError(f"window = {list(self.window)}: expected the lower intensity before the higher")
        return self
