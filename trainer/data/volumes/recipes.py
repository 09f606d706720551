"""How cases are prepared, by name, and what a study may change of it.

Steps, in this order: axes turned; resampled (images linearly, labels by their nearest voxel); window; cropped to the
foreground and padded; z-score. The recipes:

btcv, word  RAS, 1.5 x 1.5 x 2 mm, HU -175 to 250 become 0 to 1, cut to voxels above 0: as ACF-BCKD has it
brats21     RAS, spacing kept, cut to voxels other than 0, padded to multiples of 96, z-score over voxels other than 0
msd         RAS, spacing kept, z-score over all voxels
nnunet      as nnU-Net prepares a case by its plans, `trainer.data.volumes.nnunet`: axes as stored, cut to voxels other
            than 0, normalised by `schemes`, and only then resampled, with cubic splines
none        RAS, nothing else

Reference code of BraTS normalises after the random crop: each training patch by its own voxels, a whole volume where it
validates. `zscore = "nonzero-patch"` is that order: images stay as they are, and `Normaliser` is applied to what is
cut. `zscore = "nonzero"`, the recipe's, normalises a case once, before anything is cut, so that training and validation
see the same values; it is a different recipe, with other numbers.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import ChannelScheme, GridRule, Orientation, VolumeData, VolumeRecipe, ZScore
from trainer.data.volumes.geometry import Shape, Triple
from trainer.errors import DataError

Box = tuple[Shape, Shape]
"""First voxel, which may lie before the volume, and sides."""


@dataclass(frozen=True)
class Recipe:
    """All that is done to a case."""

    orientation: Orientation = "RAS"
    spacing: Triple | None = None
    """Millimetres; None: each case's own."""
    grid: GridRule = "first-centre"
    window: tuple[float, float] | None = None
    zscore: ZScore = "none"
    crop: str | None = None
    """positive, nonzero, or None."""
    margin: int = 0
    multiple: Shape = (1, 1, 1)
    storage: str = "float32"
    schemes: tuple[ChannelScheme, ...] = ()
    """By channel; where there are any, nnU-Net's steps take the place of the usual ones."""

    def stated(self) -> dict[str, Any]:
        """As JSON has it."""
        table = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        # Without schemes as it was before there were any: the names of prepared cases follow from it.
        del table["schemes"]
        return table | ({"schemes": [known.model_dump() for known in self.schemes]} if self.schemes else {})


_CT = Recipe(spacing=(1.5, 1.5, 2.0), window=(-175.0, 250.0), crop="positive")
RECIPES: Mapping[VolumeRecipe, Recipe] = {
    "btcv": _CT,
    "word": _CT,
    "brats21": Recipe(zscore="nonzero", crop="nonzero", multiple=(96, 96, 96)),
    "msd": Recipe(zscore="volume"),
    "nnunet": Recipe(orientation="stored", grid="edge-to-edge", crop="nonzero"),
    "none": Recipe(),
}
_OTHERS = ((1, 2), (0, 2), (0, 1))
OFF = {"spacing": "native", "window": "off", "crop": "off"}
"""What switches off a step that a recipe has."""


def recipe_of(config: VolumeData) -> Recipe:
    """The recipe that the settings name, with what they change of it."""
    changes: dict[str, Any] = {}
    for field in fields(Recipe):
        value = getattr(config, field.name)
        if value is not None:
            changes[field.name] = None if value == OFF.get(field.name) else value
    return replace(RECIPES[config.recipe], **changes)


@dataclass(frozen=True)
class Normaliser:
    """What the image of a prepared case still needs where each patch is normalised by itself; else nothing."""

    by_patch: bool
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    """By channel, of the whole prepared case's voxels other than 0."""

    def of_patch(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        """A training patch (C, X, Y, Z), by its own voxels other than 0; a channel of one value stays as it is but for
        its mean."""
        if not self.by_patch:
            return patch
        out = patch.copy()
        for channel in out:
            inside = channel != 0
            if inside.any():
                values = channel[inside].astype(np.float64)
                channel[inside] = (values - values.mean()) / (values.std() or 1.0)
        return out

    def of_case(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """A whole prepared case (C, X, Y, Z), or a window of one, by the case's statistics."""
        whole = np.asarray(image, np.float32)
        if not self.by_patch:
            return whole
        out = whole.copy()
        for channel, mean, deviation in zip(out, self.means, self.deviations, strict=True):
            inside = channel != 0
            channel[inside] = (channel[inside] - mean) / deviation
        return out


def windowed(values: NDArray[Any], window: tuple[float, float] | None) -> NDArray[np.float32]:
    """Intensities with those of the window brought to 0 and 1, clipped; as float32."""
    if window is None:
        return np.asarray(values, np.float32)
    low, high = window
    scaled = (values.astype(np.float64, copy=False) - low) / (high - low)
    return np.clip(scaled, 0.0, 1.0, out=scaled).astype(np.float32)


def foreground_box(image: NDArray[np.float32], recipe: Recipe, where: str) -> Box:
    """The part of an image (C, X, Y, Z) that the recipe keeps. where: for messages. Raises DataError where no voxel of
    it is foreground."""
    sides = image.shape[1:]
    starts, ends = [0, 0, 0], list(sides)
    if recipe.crop is not None:
        inside = (image > 0 if recipe.crop == "positive" else image != 0).any(axis=0)
        for axis in range(3):
            lines = np.flatnonzero(np.any(inside, axis=_OTHERS[axis]))
            if not len(lines):
                kind = "above 0" if recipe.crop == "positive" else "other than 0"
                window = "" if recipe.window is None else f" after the window {list(recipe.window)}"
                raise DataError(f"{where}: no voxel of the image is {kind}{window}; change window, or crop = 'off'")
            starts[axis] = max(0, int(lines[0]) - recipe.margin)
            ends[axis] = min(sides[axis], int(lines[-1]) + 1 + recipe.margin)
    for axis, multiple in enumerate(recipe.multiple):
        lacking = -(ends[axis] - starts[axis]) % multiple
        starts[axis] -= lacking // 2
        ends[axis] += lacking - lacking // 2
    x, y, z = (end - start for start, end in zip(starts, ends, strict=True))
    return (starts[0], starts[1], starts[2]), (x, y, z)


def cut(volume: NDArray[Any], box: Box) -> NDArray[Any]:
    """The box of the last three axes, 0 where it reaches beyond them."""
    start, shape = box
    sides = volume.shape[-3:]
    (x, y, z), (left, back, below) = (
        tuple(slice(max(0, first), min(side, first + length)) for first, length, side in zip(*box, sides, strict=True)),
        start,
    )
    part = volume[..., x, y, z]
    if part.shape[-3:] == shape:
        return part
    out = np.zeros((*volume.shape[:-3], *shape), volume.dtype)
    out[
        ...,
        x.start - left : x.stop - left,
        y.start - back : y.stop - back,
        z.start - below : z.stop - below,
    ] = part
    return out


def normalised(image: NDArray[np.float32], recipe: Recipe, where: str) -> Normaliser:
    """Bring an image (C, X, Y, Z) to mean 0 and deviation 1, in place, as the recipe says.

    Raises DataError where all voxels of a channel are equal.
    """
    if recipe.zscore == "none":
        return Normaliser(False, (), ())
    means, deviations = [], []
    for at, channel in enumerate(image):
        inside = np.ones(channel.shape, np.bool_) if recipe.zscore == "volume" else channel != 0
        values = channel[inside].astype(np.float64)
        mean, deviation = (float(values.mean()), float(values.std())) if values.size else (0.0, 0.0)
        if deviation == 0:
            which = "voxels" if recipe.zscore == "volume" else "voxels other than 0"
            raise DataError(
                f"{where}: the {values.size} {which} of channel {at} are all {mean:g}: there is nothing to divide by; "
                "look at the file, or choose another zscore"
            )
        means.append(mean)
        deviations.append(deviation)
        if recipe.zscore != "nonzero-patch":
            channel[inside] = (values - mean) / deviation
    return Normaliser(recipe.zscore == "nonzero-patch", tuple(means), tuple(deviations))
