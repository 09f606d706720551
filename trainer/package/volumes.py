"""A package for volumes as whoever runs it sees it: how a case is prepared, the sliding window, what labels are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, model_validator

from models.config import Frozen
from models.config.network import absent
from trainer.config import MOST_CLASSES, ClassCode, GridRule, Intensity, Orientation, RunConfig, VolumeData, ZScore
from trainer.config.volumes import MOST_CHANNELS, ChannelScheme, Millimetres, Side, Tiling, Weights
from trainer.data.classes import LabelClass, classes_of, ground, hexadecimal, rgb
from trainer.data.dataset import by_threshold
from trainer.data.volumes.case import PreparedCase
from trainer.data.volumes.prepare import coding_for
from trainer.data.volumes.recipes import Recipe, recipe_of
from trainer.evaluation.native_slices import window_of
from trainer.evaluation.sliding_window import SlidingWindow, counted_windows
from trainer.package.inference import COMPUTES, DEFAULT_THRESHOLD, Colour, Engine, Share, Source, check_thresholds
from trainer.package.onnx_runtime import Floats, Network
from trainer.package.volume_slices import slices_of_case

FileName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f/\\.][^\x00-\x1f\x7f/\\]*$", max_length=100)]
"""A name that stands in the name of a file."""


class VolumePreprocessing(Frozen):
    """What happens to a case before the network, and to logits after it: axes turned, resampled, window, cropped and
    padded, z-score; then the sliding window, and the way back to the grid of the case's files."""

    schema_: Literal[4, 6, 7, 9] = Field(
        default=4,
        alias="schema",
        description="4: volumes; 6: regions with thresholds of their own; 7: classes with codes, with or without "
        "these; 9: any of these, computed by another engine; others are of pictures",
    )
    channels: tuple[FileName, ...] | Annotated[StrictInt, Field(ge=1, le=MOST_CHANNELS)] = Field(
        description="of an image: how many, or the names behind CASE_ in the names of its files, in the network's order"
    )
    orientation: Orientation = Field(description="where the axes x, y, z of the network go; stored: as in the file")
    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = Field(
        description="millimetres between voxels along x, y, z; none: each case's own"
    )
    grid: GridRule = Field(description="where the voxels of a new spacing lie")
    window: tuple[Intensity, Intensity] | None = Field(
        description="intensities that become 0 and 1, clipped; none: as stored"
    )
    crop: Literal["positive", "nonzero"] | None = Field(
        description="to the box of voxels above 0, or other than 0 in any channel; none: nothing is cut"
    )
    margin: Annotated[StrictInt, Field(ge=0, le=1024)] = Field(description="voxels that a crop leaves around the box")
    multiple: tuple[Side, Side, Side] = Field(description="sides that are padded with zeros up to multiples of these")
    zscore: ZScore = Field(
        description="mean 0 and deviation 1 by channel over all voxels, or over those that are not 0; nonzero-patch: "
        "a whole case as nonzero"
    )
    schemes: tuple[ChannelScheme, ...] = Field(
        default=(),
        exclude_if=lambda schemes: not schemes,
        description="by channel how nnU-Net normalises it; where there are any, a case is prepared in nnU-Net's steps",
    )
    storage: Literal["float32", "float16"] = Field(description="what prepared intensities are rounded to")
    patch: tuple[Side, Side, Side] = Field(description="sides of the network's input in voxels: x, y, z")
    overlap: float = Field(ge=0.0, lt=1.0, description="share of a window that the next one covers")
    weights: Weights = Field(description="of the voxels of windows that overlap")
    tiling: Tiling = Field(description="windows in steps of equal length, the last at the end; or spread evenly")
    classes: tuple[FileName, ...] = Field(
        min_length=1, max_length=MOST_CLASSES, description="names of the outputs: the labels 0, 1, ..., or the regions"
    )
    colours: tuple[Colour, ...] = Field(description="#rrggbb of each")
    codes: tuple[ClassCode | None, ...] | None = Field(
        default=None, exclude_if=absent, description="what DICOM SEG calls each; none: its name in a private scheme"
    )
    values: tuple[Annotated[StrictInt, Field(ge=0, le=255)], ...] | None = Field(
        default=None,
        exclude_if=absent,
        description="what label files hold of each class; regions: a file each, 0 and 1",
    )
    regions: bool = Field(
        description="the classes are regions, which overlap: each whose sigmoid is above the threshold"
    )
    threshold: float | None = Field(
        gt=0.0,
        lt=1.0,
        description="two classes and regions: a voxel is in it above this probability; else the likeliest",
    )
    thresholds: tuple[Share, ...] | None = Field(
        default=None, exclude_if=absent, description="of each region, where they differ; `threshold` is null then"
    )
    threshold_from: Source = Field(description="default 0.5, given by hand, or chosen on validation cases")
    computes: Engine = Field(default=None, exclude_if=absent, description=COMPUTES)

    @model_validator(mode="after")
    def _classes_fit(self) -> Self:
        count = len(self.classes)
        if not self.regions and count < 2:
            raise ValueError(f"classes: {count} named; expected 2 or more, or regions = true")
        if (self.values is None) != self.regions or len(self.values or self.classes) != count:
            raise ValueError("values: expected one a class, and none of regions")
        if len(self.colours) != count:
            raise ValueError(f"colours: {len(self.colours)} of {count} classes; expected one a class")
        if self.schemes and (self.orientation != "stored" or len(self.schemes) != self.channel_count):
            raise ValueError('schemes: expected one a channel, and orientation = "stored"')
        if len(set(self.classes)) < count:
            raise ValueError("classes: one name stands twice")
        if self.window is not None and self.window[0] >= self.window[1]:
            raise ValueError(f"window = {list(self.window)}: expected the lower end first")
        return self

    @model_validator(mode="after")
    def _thresholds_fit(self) -> Self:
        if self.schema_ not in (7, 9) and (self.thresholds is not None) != (self.schema_ == 6):
            raise ValueError(f"thresholds: of schema 6, which is of regions with their own, 7 or 9, not {self.schema_}")
        if self.thresholds is not None and not self.regions:
            raise ValueError("thresholds: of regions alone")
        if self.thresholds is not None:
            check_thresholds(self.threshold, self.thresholds, len(self.classes))
        elif (self.threshold is not None) != by_threshold(len(self.classes), regions=self.regions):
            raise ValueError(f"threshold = {self.threshold}: two classes and regions have one, others none")
        return self

    @model_validator(mode="after")
    def _codes_fit(self) -> Self:
        if self.schema_ != 9 and (self.codes is not None) != (self.schema_ == 7):
            raise ValueError(f"codes: of schema 7, which has them, or 9, not {self.schema_}")
        if (self.computes is not None) != (self.schema_ == 9):
            raise ValueError(f"computes: of schema 9 alone, which has it, not {self.schema_}")
        if len(self.codes or self.classes) != len(self.classes):
            raise ValueError(f"codes: {len(self.codes or ())} of {len(self.classes)} classes; null where one has none")
        return self

    @property
    def least(self) -> tuple[float, ...]:
        """Probabilities above which a voxel is in the object: one, one a region, or none."""
        return self.thresholds or (() if self.threshold is None else (self.threshold,))

    @property
    def channel_count(self) -> int:
        """Channels of the network's input."""
        return self.channels if isinstance(self.channels, int) else len(self.channels)

    @property
    def recipe(self) -> Recipe:
        """How a case is prepared."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})

    @property
    def sliding(self) -> SlidingWindow:
        """How a prepared case is covered; a window at a time, which takes the least memory and on a CPU no longer."""
        return SlidingWindow(self.patch, self.overlap, self.weights, self.tiling, batch=1)

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """The outputs' names and colours."""
        return tuple(LabelClass(name, rgb(colour)) for name, colour in zip(self.classes, self.colours, strict=True))


@dataclass(frozen=True)
class PackedVolumes:
    """Cases to logits on the grids of their files."""

    preprocessing: VolumePreprocessing
    network: Network

    def slices(
        self, case: PreparedCase, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[int, Floats]]:
        """Logits (classes, A, B) of each slice along the last axis of a case's files, with its number; the next one
        overwrites them. progress: called with the windows that are done, and all."""
        p = self.preprocessing
        predict: Callable[[Floats], Floats] = self.network
        if progress is not None:
            predict = counted_windows(predict, p.sliding.count(case.way.shape), progress)
        image = case.normaliser.of_case(case.image)
        return slices_of_case(image, case.way, p.sliding, predict, ground=ground(p.regions))


def volume_preprocessing(
    data: VolumeData,
    *,
    thresholds: tuple[float, ...],
    threshold_from: Source,
    codes: tuple[ClassCode | None, ...] = (),
) -> VolumePreprocessing:
    """What a package for volumes says. thresholds: one, or one a region; none for the default, where there is one.
    codes: one a class or region, or none."""
    recipe, window, classes = recipe_of(data), window_of(data), classes_of(data)
    thresholded = by_threshold(len(classes), regions=bool(data.regions))
    several = len(thresholds) > 1
    return VolumePreprocessing(
        schema=7 if any(codes) else 6 if several else 4,
        channels=data.channels,
        **{field.name: getattr(recipe, field.name) for field in fields(Recipe)},
        patch=window.size,
        overlap=window.overlap,
        weights=window.weights,
        tiling=window.tiling,
        classes=tuple(known.name for known in classes),
        colours=tuple(hexadecimal(known.colour) for known in classes),
        codes=codes if any(codes) else None,
        values=None if data.regions else coding_for(data).values,
        regions=bool(data.regions),
        threshold=(thresholds or (DEFAULT_THRESHOLD,))[0] if thresholded and not several else None,
        thresholds=thresholds if several else None,
        threshold_from=threshold_from,
    )


def codes_of(run: RunConfig | None, trained: VolumeData) -> tuple[ClassCode | None, ...]:
    """What DICOM calls each class or region: as a run says whose data counts, else as the training's own run does."""
    data = trained if run is None or not isinstance(run.data, VolumeData) else run.data
    by_name = {known.name: known.code for known in data.regions or data.classes}
    return tuple(by_name.get(known.name) for known in classes_of(trained))
