"""A case prepared as nnU-Net prepares it (Isensee et al. 2021; nnunetv2's DefaultPreprocessor): cut to the voxels other
than 0, normalised channel by channel, and only then resampled. numpy and scipy alone, as packages need it.

The axes stay as they are stored, since nnU-Net turns none. Where the spacing along one axis is more than three times
that along another, before or after, each plane across it is resampled by itself, and along it the nearest plane counts,
on the way back, too.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.config import ChannelScheme
from trainer.data.volumes.geometry import Axis, NativeGrid, Shape, Triple
from trainer.data.volumes.recipes import Box, Recipe, cut, foreground_box

Image = NDArray[np.float32]

APART = 3.0
"""The ratio of spacings from which an axis is resampled by itself (nnU-Net's ANISO_THRESHOLD)."""
_LEAST = 1e-8
"""The least deviation that is divided by."""


class Planned(NamedTuple):
    """A case as nnU-Net's network sees it."""

    image: Image
    """(C, X, Y, Z)."""
    way: NativeGrid
    box: Box
    """What was kept of the native grid."""


def planned(native: Image, way: NativeGrid, recipe: Recipe, where: str) -> Planned:
    """Prepare an image (C, X, Y, Z) on its native grid `way`. Raises DataError where all of it is 0."""
    from scipy.ndimage import binary_fill_holes

    box = foreground_box(native, recipe, where)
    image = np.array(cut(native, box), np.float32)
    inside = binary_fill_holes((image != 0).any(axis=0))
    for channel, scheme in zip(image, recipe.schemes, strict=True):
        _normalise(channel, scheme, inside)
    kept = way.cut(*box)
    if recipe.spacing is None:
        return Planned(image, kept, box)
    before = _stored_spacing(way)
    shape = _shape(kept.shape, before, recipe.spacing)
    image = resampled(image, shape, axis_apart(before, recipe.spacing))
    # Back from its own spacing to the file's, nnU-Net looks at its own first.
    return Planned(image, replace(_respaced(kept, shape), apart=axis_apart(recipe.spacing, before)), box)


def _normalise(channel: Image, scheme: ChannelScheme, inside: NDArray[np.bool_]) -> None:
    """In place, in single precision as nnU-Net does it."""
    if scheme.scheme == "ZScoreNormalization":
        of = inside if scheme.masked else np.ones_like(inside)
        values = channel[of]
        channel[of] = (values - values.mean()) / max(values.std(), _LEAST)
    elif scheme.scheme == "CTNormalization":
        np.clip(channel, scheme.low, scheme.high, out=channel)
        channel -= float(scheme.mean or 0.0)
        channel /= max(float(scheme.std or 0.0), _LEAST)
    elif scheme.scheme == "RescaleTo01Normalization":
        channel -= channel.min()
        channel /= max(float(channel.max()), _LEAST)
    elif scheme.scheme == "RGBTo01Normalization":
        channel /= 255.0


def _stored_spacing(way: NativeGrid) -> Triple:
    """Millimetres as the file keeps them, not read as decimal numbers: nnU-Net's shapes follow from these."""
    lengths = np.sqrt((way.native.matrix[:3, :3] ** 2).sum(axis=0))
    x, y, z = (float(lengths[axis.native]) for axis in way.axes)
    return x, y, z


def _shape(shape: Shape, before: Triple, after: Triple) -> Shape:
    x, y, z = (max(1, round(old / new * side)) for old, new, side in zip(before, after, shape, strict=True))
    return x, y, z


def _respaced(way: NativeGrid, shape: Shape) -> NativeGrid:
    """The grid with other numbers of voxels between the same outer edges."""
    axes = []
    for axis, old, new in zip(way.axes, way.shape, shape, strict=True):
        step = old / new
        axes.append(Axis(axis.native, axis.scale * step, axis.offset + axis.scale * (step - 1) / 2))
    return replace(way, shape=shape, axes=(axes[0], axes[1], axes[2]))


def axis_apart(before: Triple, after: Triple) -> int | None:
    """The axis that is resampled by itself; None: all together."""
    for spacing in (before, after):
        if max(spacing) / min(spacing) > APART:
            longest = [at for at, length in enumerate(spacing) if length == max(spacing)]
            return longest[0] if len(longest) == 1 else None
    return None


def resampled(image: Image, shape: Shape, apart: int | None) -> Image:
    """An image (C, X, Y, Z) with other sides, edge to edge, by cubic splines; apart: an axis along which the nearest
    plane counts. Values stay between the least and the greatest of what each spline was laid through."""
    if image.shape[1:] == shape:
        return image
    out = np.empty((len(image), *shape), np.float32)
    for channel, into in zip(image.astype(np.float64), out, strict=True):
        into[...] = _splined(channel, shape) if apart is None else _by_planes(channel, shape, apart)
    return out


def _by_planes(channel: NDArray[Any], shape: Shape, apart: int) -> NDArray[Any]:
    across = tuple(side for at, side in enumerate(shape) if at != apart)
    planes = [_splined(plane, across) for plane in np.moveaxis(channel, apart, 0)]
    places = len(planes) / shape[apart] * (np.arange(shape[apart]) + 0.5) - 0.5
    nearest = np.clip(np.floor(places + 0.5), 0, len(planes) - 1).astype(np.int64)
    return np.moveaxis(np.stack(planes)[nearest], 0, apart)


def _splined(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    from scipy.ndimage import zoom

    if values.shape == shape:
        return values
    factors = [1 / (old / new) for old, new in zip(values.shape, shape, strict=True)]
    out: NDArray[Any] = zoom(values, factors, order=3, mode="nearest", grid_mode=True)
    return np.clip(out, values.min(), values.max(), out=out)
