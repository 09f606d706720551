"""One complete training run as a value. Free of torch; `trainer.dry_run` builds what it names on the meta device."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, StrictInt, field_validator, model_validator

from losses.config import NEEDS_TEACHER, LossTerms, Weighted
from models.config import Channels, Frozen, NetworkConfig, TeacherConfig, UNetNetwork

MOST_PIXELS = 8192
"""The longest side of a picture: beyond it a single batch fills the memory of any machine."""
MOST_PICTURES = 100_000
"""That are drawn; all of them are kept in memory."""
MOST_CLASSES = 254
"""A mask keeps labels in 8 bits, of which 255 is what is ignored."""
MOST_FILES = 7
"""Regions in files of their own: a label says in which of them a pixel is, and 255 is what is ignored."""
MOST_EPOCHS = 1_000_000
LARGEST_SEED = 2**53
"""Databases and JSON keep whole numbers up to it exactly."""

Precision = Literal["fp32", "bf16", "fp16"]
Replay = tuple[tuple[int, int], ...]
"""(own epoch, from 1; stream epoch, from 0) at each place where the run joined the stream."""


class Pictures(Frozen):
    """What every data set has. Images are brought to size x size for the network; scores are taken at native size."""

    size: PositiveInt = Field(
        default=352,
        le=MOST_PIXELS,
        description="side of the network's input in pixels, a multiple of the networks' strides: multiples of 32 suit "
        "every network",
    )
    fit: Literal["letterbox", "stretch"] = Field(
        default="letterbox", description="letterbox keeps the sides' ratio and pads; stretch fills the square"
    )
    augment: str = Field(default="standard", description="a named preset of changes to the training images")
    views: PositiveInt | None = Field(
        default=None,
        le=1000,
        description="fixed augmentations of each image, one an epoch in turn, whose teacher logits are stored; none: "
        "new ones in every epoch",
    )


class BlobsData(Pictures):
    """Drawn ellipses on noise; no files. A share of the images has no ellipse at all."""

    name: Literal["blobs"]
    size: PositiveInt = Field(
        default=64, le=MOST_PIXELS, description="side of the drawn pictures and of the network's input in pixels"
    )
    train: PositiveInt = Field(default=96, le=MOST_PICTURES, description="pictures to train on")
    validation: PositiveInt = Field(default=32, le=MOST_PICTURES, description="pictures that choose epochs and trials")
    test: PositiveInt = Field(default=32, le=MOST_PICTURES, description="pictures that only an opened test sees")
    seed: NonNegativeInt = Field(default=0, le=LARGEST_SEED, description="of what is drawn")
    loose: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        exclude_if=lambda loose: loose == 0,  # runs of before, and their hashes, have no such key
        description="by which share of their radii the ellipses are wider in the masks to train on than in the "
        "pictures, as where a person outlines in a hurry; validation and test masks are exact",
    )


class PolypData(Pictures):
    """Polyp images with masks, chosen by a split file `source,image,mask,group,split`."""

    name: Literal["polyp"]
    root: str = Field(description="folder that the split file's paths start from; $VARIABLES come from the environment")
    split: str = Field(description="the split file, written by `search init` or `trainer data split`")
    near_duplicates: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="near-identical pictures in two parts: an error, or a leak that you know of and that is said",
    )
    labels: str | None = Field(
        default=None,
        exclude_if=lambda labels: labels is None,  # runs of before, and their hashes, have no such key
        description='what the values of all masks mean, such as "0: background, 1-2: object, 255: ignored"; '
        "none: black is the background, and the one other value or colour of a source the object",
    )


Level = Annotated[StrictInt, Field(ge=0, le=255)]
ClassValue = Level | str | tuple[Level | str, ...] | None
"""What stands for a class in a mask. Numbers are strict: pydantic takes the text "0-19" for the number -19."""


Intensity = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class ClassConfig(Frozen):
    """One class of a data set: its name, what stands for it in a mask, and its colour in pictures."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        max_length=60,
        description="letters, digits, - and _; scores have it behind a dot: dice.liver",
    )
    value: ClassValue = Field(
        default=None,
        description='what masks hold: a number, a range "1-3", a colour "#800000", or a list of such; none: masks are '
        "a file a class, whose paths have {class} in the place of the name",
    )
    colour: str | None = Field(
        default=None,
        pattern=r"^#[0-9a-fA-F]{6}$",
        description="#rrggbb in pictures; none: the value's colour where it has one, else one of a fixed palette",
    )


class RegionConfig(ClassConfig):
    """One region of a data set: an object that may overlap others, with an output and scores of its own."""

    value: ClassValue = Field(
        default=None,
        description='what of a mask is in it: names of data.classes, numbers, ranges "1-3", colours "#800000"; none: '
        "masks are a file a region, whose paths have {class} in the place of the name",
    )


CellReader = Literal["segpc-cell", "segpc-cytoplasm"]


class PictureData(Pictures):
    """Pictures with masks of any number of classes and channels, chosen by a split file as polyps are."""

    name: Literal["pictures"]
    root: str = Field(description="folder that the split file's paths start from; $VARIABLES come from the environment")
    split: str = Field(description="the split file, written by `search init` or `trainer data split`")
    near_duplicates: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="near-identical pictures in two parts: an error, or a leak that you know of and that is said",
    )
    classes: tuple[ClassConfig, ...] = Field(
        default=(),
        max_length=MOST_CLASSES,
        description="in the order of the network's output; the first is ground. With regions: the names that these may "
        "have for what masks hold, or nothing",
    )
    regions: tuple[RegionConfig, ...] = Field(
        default=(),
        max_length=MOST_CLASSES,
        exclude_if=lambda regions: not regions,  # runs of before, and their hashes, have no such key
        description="objects that overlap, in the order of the network's output, such as { whole = [1, 2, 4], core = "
        "[1, 4] }; losses and scores then take each by itself; none: every pixel has one class",
    )
    ignore: ClassValue = Field(
        default=None,
        description="what in a mask is neither learned nor scored, written as a class's value; none: nothing",
    )
    channels: Literal[1, 3, 4] = Field(default=3, description="of a picture: grey, RGB, or RGB and one more")
    bits: Literal[8, 16] = Field(default=8, description="of a channel as the cache keeps it")
    window: tuple[Intensity, Intensity] | None = Field(
        default=None,
        description="of slices of volumes: the intensities that become black and white; none: files hold 0 to 1, or "
        "whole numbers of their own depth",
    )
    reader: CellReader | None = Field(
        default=None,
        exclude_if=lambda reader: reader is None,
        description="a row is one cell of SegPC-2021, cut out around its nucleus, which is the fourth channel; the "
        "object is the whole cell or its cytoplasm; none: a row is a picture",
    )
    mean: Channels | None = Field(
        default=None,
        description="by channel of values in 0 to 1, taken from the input; none: ImageNet's for RGB, else 0",
    )
    std: Channels | None = Field(
        default=None, description="of the same, what the rest is divided by; none: ImageNet's for RGB, else 1"
    )

    @field_validator("regions", mode="before")
    @classmethod
    def _as_list(cls, regions: Any) -> Any:
        """`{ whole = [1, 2] }` as a list of tables, which is how runs keep it: their order is that of the output."""
        if not isinstance(regions, Mapping):
            return regions
        return [
            {"name": name, **entry} if isinstance(entry, Mapping) else {"name": name, "value": entry}
            for name, entry in regions.items()
        ]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for field, entries in (("classes", self.classes), ("regions", self.regions)):
            names = [known.name for known in entries]
            double = next((name for name in names if names.count(name) > 1), None)
            if double is not None:
                raise ValueError(f"{field}: two are named {double!r}; rename one")
            valued = [known.name for known in entries if known.value is not None]
            if valued and len(valued) < len(names):
                lacking = next(name for name in names if name not in valued)
                raise ValueError(
                    f"{field}: {lacking!r} has no value and {valued[0]!r} has one; give it to all or to none"
                )
        return self

    @model_validator(mode="after")
    def _objects_are_named(self) -> Self:
        if not self.regions:
            if len(self.classes) < 2:
                raise ValueError(
                    f"classes: {len(self.classes)} named, expected 2 or more, the ground first; for objects that "
                    "overlap name regions"
                )
            return self
        if self.reader is not None:
            raise ValueError(f"reader = {self.reader!r}: a cell has no regions; remove one of them")
        if self.regions[0].value is None:
            if self.classes:
                raise ValueError("classes: regions without values are a file each, which have no classes; remove one")
            if len(self.regions) > MOST_FILES:
                raise ValueError(
                    f"regions: {len(self.regions)} in files of their own, {MOST_FILES} at most; give them values of "
                    "one file"
                )
        elif any(known.value is None for known in self.classes):
            raise ValueError("classes: regions take classes by their values; give every class a value")
        return self

    @model_validator(mode="after")
    def _cells_have_their_form(self) -> Self:
        if self.reader is None:
            return self
        for field, value, wanted in (
            ("channels", self.channels, 4), ("bits", self.bits, 8), ("classes", len(self.classes), 2),
        ):  # fmt: skip
            if value != wanted:
                raise ValueError(f"reader = {self.reader!r}: has {wanted} {field}, not {value}; change {field}")
        return self

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"{'std' if self.std is None else 'mean'}: missing; mean and std are given together")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name} = {list(values)}: expected {self.channels} values, one a channel")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std = {list(self.std)}: expected values above 0")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window = {list(self.window)}: expected the lower intensity before the higher")
        return self


VolumeRecipe = Literal["btcv", "word", "brats21", "msd", "none"]
Orientation = Literal["RAS", "LPS", "stored"]
ZScore = Literal["none", "volume", "nonzero", "nonzero-patch"]
GridRule = Literal["first-centre", "edge-to-edge"]
Millimetres = Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False)]
Side = Annotated[StrictInt, Field(ge=1, le=1024)]
"""Of a patch, in voxels."""
MOST_CHANNELS = 64


class VolumeData(Frozen):
    """Volumes with labels, a case a row of the split file; each is prepared once into the cache and cut into patches.

    Axes are x, y, z with z last. What the recipe says of a field stands where that field is left out.
    """

    name: Literal["volumes"]
    root: str = Field(description="folder that the split file's paths start from; $VARIABLES come from the environment")
    split: str = Field(description="the split file, written by `search init` or `trainer data split`")
    classes: tuple[ClassConfig, ...] = Field(
        min_length=2, max_length=MOST_CLASSES, description="in the order of the network's output; the first is ground"
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
    storage: Literal["float32", "float16"] = Field(default="float32", description="of prepared images on the disk")
    patch: tuple[Side, Side, Side] = Field(default=(96, 96, 96), description="sides of a patch in voxels: x, y, z")
    patches: PositiveInt = Field(default=4, le=1000, description="patches of each case in an epoch")
    foreground: float = Field(
        default=0.5, ge=0.0, le=1.0, description="share of the patches that lie around a voxel that is not ground"
    )
    augment: str = Field(default="flips", description="a named preset of changes to the patches")
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
    weights: Literal["constant", "gaussian"] = Field(
        default="constant", description="of the voxels of overlapping windows"
    )

    @property
    def size(self) -> int:
        """The longest side of a patch in voxels."""
        return max(self.patch)

    @property
    def fit(self) -> Literal["letterbox"]:
        """How a case smaller than a patch becomes one: it is padded, never stretched."""
        return "letterbox"

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        names = [known.name for known in self.classes]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"classes: two are named {double!r}; rename one")
        lacking = next((known.name for known in self.classes if known.value is None), None)
        if lacking is not None:
            raise ValueError(f"classes: {lacking!r} has no value; label files of volumes hold a number a class")
        swapped = [name for pair in self.swap for name in pair]
        wrong = next((name for name in swapped if name not in names or swapped.count(name) > 1), None)
        if wrong is not None:
            raise ValueError(f"swap: {wrong!r} is no class, or is in two pairs; known: {', '.join(names)}")
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


DataConfig = Annotated[BlobsData | PolypData | PictureData | VolumeData, Field(discriminator="name")]


class OneCycle(Frozen):
    """Cosine rise over `warmup_epochs` from lr / start_div, cosine fall to lr / end_div (Smith and Topin 2018)."""

    name: Literal["one-cycle"]
    warmup_epochs: NonNegativeInt = Field(default=3, le=MOST_EPOCHS, description="epochs in which the rate rises")
    start_div: float = Field(
        default=25.0, gt=0.0, le=1e12, allow_inf_nan=False, description="the first rate is lr divided by it"
    )
    end_div: float = Field(
        default=1e4, gt=0.0, le=1e12, allow_inf_nan=False, description="the last rate is lr divided by it"
    )


class Cosine(Frozen):
    """Linear rise over `warmup_epochs`, cosine fall to `end` times lr."""

    name: Literal["cosine"]
    warmup_epochs: NonNegativeInt = Field(default=0, le=MOST_EPOCHS, description="epochs in which the rate rises")
    end: float = Field(default=0.0, ge=0.0, le=1.0, description="the last rate is lr times it")


class Poly(Frozen):
    """Linear rise over `warmup_epochs`, then (1 - progress)^power."""

    name: Literal["poly"]
    warmup_epochs: NonNegativeInt = Field(default=0, le=MOST_EPOCHS, description="epochs in which the rate rises")
    power: float = Field(
        default=0.9, gt=0.0, le=1000.0, allow_inf_nan=False, description="of the fall; 1 is a straight line"
    )


class Plateau(Frozen):
    """lr times `factor` after `patience` validations without a better score."""

    name: Literal["plateau"]
    warmup_epochs: NonNegativeInt = Field(default=0, le=MOST_EPOCHS, description="epochs in which the rate rises")
    factor: float = Field(default=0.1, gt=0.0, lt=1.0, description="what the rate is multiplied with")
    patience: NonNegativeInt = Field(
        default=10, le=MOST_EPOCHS, description="validations without a better score before the rate falls"
    )


class Constant(Frozen):
    """lr stays, after a linear rise over `warmup_epochs`."""

    name: Literal["constant"]
    warmup_epochs: NonNegativeInt = Field(default=0, le=MOST_EPOCHS, description="epochs in which the rate rises")


ScheduleConfig = Annotated[OneCycle | Cosine | Poly | Plateau | Constant, Field(discriminator="name")]


class OptimConfig(Frozen):
    """How a student's weights move. `lr` is the rate as used: never scaled by ranks or batch."""

    name: Literal["sgd", "adam", "adamw"] = Field(default="adamw", description="the optimizer")
    lr: float = Field(
        default=1e-3,
        gt=0.0,
        le=1e6,
        allow_inf_nan=False,
        description="the highest learning rate, as used: never scaled by ranks or batch",
    )
    weight_decay: float = Field(
        default=0.0, ge=0.0, le=1e6, allow_inf_nan=False, description="decoupled for adamw, else added to the gradient"
    )
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0, description="of sgd")
    clip: float | None = Field(
        default=None, gt=0.0, le=1e12, allow_inf_nan=False, description="greatest norm of the gradient"
    )
    schedule: ScheduleConfig = Field(
        default=OneCycle(name="one-cycle"), description="how the learning rate moves over the run"
    )
    ema: bool = Field(
        default=False, description="score an average of the weights; its memory grows from 0 to 1 over the run"
    )


class ValidateConfig(Frozen):
    """Which epochs are scored: `from`, then each `every`-th after it, and always the last."""

    from_: PositiveInt = Field(default=1, le=MOST_EPOCHS, alias="from", description="first epoch that is scored")
    every: PositiveInt = Field(default=1, le=MOST_EPOCHS, description="epochs from one score to the next")

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether epoch (from 1) of epochs is scored."""
        return epoch == epochs or (epoch >= self.from_ and (epoch - self.from_) % self.every == 0)


class RunConfig(Frozen):
    """One training run, complete: shared with all ranks, stored with the trial, exported, trained again."""

    method: str = Field(default="none", description='the KD term that is live: a key of losses, "a+b", or "none"')
    epochs: PositiveInt = Field(le=MOST_EPOCHS, description="passes over the training images")
    batch_size: PositiveInt = Field(default=16, le=1_000_000, description="over all ranks of the trial")
    seed: NonNegativeInt = Field(
        default=1, le=LARGEST_SEED, description="of all draws of the run: weights, order, augmentation"
    )
    precision: Precision = Field(default="fp32", description="of the networks' passes; weights and scores stay fp32")
    validation: ValidateConfig = Field(
        default=ValidateConfig(), alias="validate", description="which epochs are scored"
    )
    data: DataConfig = Field(description="the images")
    teacher: TeacherConfig | None = Field(default=None, description="the frozen network that a KD term learns from")
    student: NetworkConfig = Field(default=UNetNetwork(name="unet"), description="the network that is trained")
    losses: LossTerms = Field(
        description="the terms that a run may use; those that need a teacher are live where `method` names them"
    )
    optim: OptimConfig = Field(default=OptimConfig(), description="how the student's weights move")

    def methods(self) -> tuple[str, ...]:
        """The live KD terms; empty for "none"."""
        return () if self.method == "none" else tuple(self.method.split("+"))

    def live_terms(self) -> dict[str, Weighted]:
        """The terms that train this run: all that need no teacher, and the KD terms that `method` names."""
        methods = self.methods()
        terms = self.losses.terms()
        return {name: term for name, term in terms.items() if name not in NEEDS_TEACHER or name in methods}

    @model_validator(mode="after")
    def _method_is_listed(self) -> Self:
        listed = self.losses.terms()
        known = sorted(NEEDS_TEACHER & set(listed))
        for name in self.methods():
            if name not in known:
                names = ", ".join(["none", *known])
                raise ValueError(f"method: {name!r} is no KD term of [run.losses]; known: {names}")
        if self.methods() and self.teacher is None:
            raise ValueError(f"method: {self.method!r} needs a teacher; add [run.teacher] or set method to none")
        if not any(term.weight > 0 for term in self.live_terms().values()):
            raise ValueError("losses: no term with a weight above 0 is live; add ce or dice")
        if self.validation.from_ > self.epochs:
            raise ValueError(
                f"validate.from: {self.validation.from_} is after the last epoch {self.epochs}; "
                f"set it to 1..{self.epochs}, or raise epochs"
            )
        return self
