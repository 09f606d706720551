"""Named augmentation presets: pixels of 8 or 16 bits in, the same out, every draw from one seed a sample.

A preset bends and shifts in a single warp, since each warp blurs and costs; flips only copy. What a warp brings in from
outside is black in the image and 255 (ignored) in the mask. albumentations is imported with the first preset that
changes anything, so that the names can be checked without it, and pictures taken as they are.
"""

import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import Picture, Pixels
from trainer.data.letterbox import IGNORED
from trainer.errors import DataError, nearest

AS_THEY_ARE = "none"
"""The preset that changes nothing, and needs no library for it."""
Plane = NDArray[np.float32]
Augment = Callable[[Picture, Pixels, int], tuple[Picture, Pixels]]
"""(image (S, S, C), mask (S, S), seed) to the same shapes."""


def picture_libraries() -> dict[str, str]:
    """The versions of the libraries that decide, beside torch, which pixels a network sees.

    From one version to the next they may differ: OpenCV 5 warps without the 32 steps a pixel of OpenCV 4.
    """
    return {"albumentations": version("albumentations"), "opencv": str(cv2.__version__)}


def check_preset(name: str) -> None:
    """Raise DataError where no preset has this name."""
    if name not in PRESETS:
        raise DataError(f"data.augment = {name!r}: unknown preset{nearest(name, PRESETS)}")


def build(name: str) -> Augment:
    """An instance of the preset. It carries random state while it works: one thread at a time. Raises DataError."""
    check_preset(name)
    _one_thread_a_sample()
    if name == AS_THEY_ARE:
        return lambda image, mask, _seed: (image, mask)
    library = _albumentations()
    steps = PRESETS[name](library)
    pipeline = library.Compose(steps)
    split = _Split(library, steps)

    def augment(image: Picture, mask: Pixels, seed: int) -> tuple[Picture, Pixels]:
        if image.dtype == np.uint8 and image.shape[2] <= _COLOURS:
            pipeline.set_random_seed(seed % 2**32)
            out = pipeline(image=image, mask=mask)
            return out["image"], out["mask"]
        return split(image, mask, seed)

    return augment


_COLOURS = 3
"""Channels that a change of colour takes; a further one is bent with the others and keeps its values."""


class _Split:
    """A preset for pictures of 16 bits or of more than three channels: what bends comes first, on all channels, then
    what changes colours, on the first three."""

    def __init__(self, library: ModuleType, steps: list[object]) -> None:
        bends = [isinstance(step, library.DualTransform) for step in steps]
        self._bend = library.Compose([step for step, bend in zip(steps, bends, strict=True) if bend])
        self._colour = library.Compose([step for step, bend in zip(steps, bends, strict=True) if not bend])

    def __call__(self, image: Picture, mask: Pixels, seed: int) -> tuple[Picture, Pixels]:
        top = np.iinfo(image.dtype).max
        self._bend.set_random_seed(seed % 2**32)
        bent = self._bend(image=image.astype(np.float32) / np.float32(top), mask=mask)
        values, labels = np.atleast_3d(bent["image"]), bent["mask"]
        self._colour.set_random_seed(seed % 2**32)
        coloured = np.atleast_3d(self._colour(image=np.ascontiguousarray(values[..., :_COLOURS]))["image"])
        values = np.concatenate([coloured, values[..., _COLOURS:]], axis=2)
        return (values.clip(0, 1) * top).round().astype(image.dtype), labels


def build_with_map(name: str) -> Callable[[Picture, Pixels, Plane, int], Plane]:
    """An instance of the preset that says where another plane (S, S) float32 of the same picture comes to lie.

    It is bent as the mask is, from the same draws, and keeps its values otherwise; what comes from outside is
    `IGNORED`. Raises DataError.
    """
    check_preset(name)
    _one_thread_a_sample()
    if name == AS_THEY_ARE:
        return lambda _image, _mask, plane, _seed: plane
    library = _albumentations()
    pipeline = library.Compose(PRESETS[name](library), additional_targets={"plane": "mask"})

    def bend(image: Picture, mask: Pixels, plane: Plane, seed: int) -> Plane:
        pipeline.set_random_seed(seed % 2**32)
        bent: Plane = pipeline(image=image, mask=mask, plane=plane)["plane"]
        return bent

    return bend


def _albumentations() -> ModuleType:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else importing it asks a server for its newest version
    albumentations = import_module("albumentations")
    _one_thread_a_sample()
    return albumentations


def _one_thread_a_sample() -> None:
    cv2.setNumThreads(0)  # threads come from the stream


def _warp(library: ModuleType, scale: float, shift: float, turn: float, shear: float) -> object:
    return library.Affine(
        scale=(1 - scale, 1 + scale),
        translate_percent=(-shift, shift),
        rotate=(-turn, turn),
        shear=(-shear, shear),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_CONSTANT,
        fill=0,
        fill_mask=IGNORED,
        keep_ratio=True,
        p=1.0,
    )


def _none(_: ModuleType) -> list[object]:
    """Pictures as they are."""
    return []


def _flips(library: ModuleType) -> list[object]:
    """Mirrored left to right, upside down, and along the diagonal; nothing is blurred."""
    return [library.HorizontalFlip(p=0.5), library.VerticalFlip(p=0.5), library.Transpose(p=0.5)]


def _standard(library: ModuleType) -> list[object]:
    """Flips, a warp (scale 0.75 to 1.25, turn 20 degrees, shift 0.1, shear 4 degrees) and some change of colour."""
    jitter = library.ColorJitter(
        brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), p=0.8
    )
    return [*_flips(library), _warp(library, scale=0.25, shift=0.1, turn=20, shear=4), jitter]


def _strong(library: ModuleType) -> list[object]:
    """Flips, a stronger warp (scale 0.6 to 1.4, turn 45 degrees) and colours, now and then blur and noise."""
    jitter = library.ColorJitter(
        brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.6, 1.4), hue=(-0.05, 0.05), p=0.9
    )
    soften = library.OneOf([library.GaussianBlur(blur_limit=(3, 7)), library.MotionBlur(blur_limit=(3, 7))], p=0.25)
    grain = library.GaussNoise(std_range=(0.01, 0.06), p=0.25)
    return [*_flips(library), _warp(library, scale=0.4, shift=0.2, turn=45, shear=10), jitter, soften, grain]


PRESETS: dict[str, Callable[[ModuleType], list[object]]] = {
    AS_THEY_ARE: _none,
    "flips": _flips,
    "standard": _standard,
    "strong": _strong,
}
