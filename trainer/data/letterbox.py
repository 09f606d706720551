"""How a native picture lies in the square that a network sees; one geometry for train, validation and test.

`letterbox` keeps the aspect: the longer side becomes `size`, the picture is centred, the rest is black in the image and
255 (ignored) in the mask, so that no loss teaches anything about pixels that were never photographed, unless the
settings say that it is background. `stretch` fills the square. Pixel centres are half-integers, as in torch's
`interpolate(align_corners=False)`. The way back of a prediction: cut [top : top + inner_height, left : left +
inner_width] and resize that to height x width.
"""

from typing import Any, Literal

import cv2
import numpy as np

from trainer.data.dataset import Picture, Pixels, Placement

IGNORED = 255
Padding = Literal["ignored", "background"]


def place(height: int, width: int, size: int, fit: Literal["letterbox", "stretch"]) -> Placement:
    """Where a picture of height x width pixels comes to lie in size x size."""
    if fit == "stretch":
        return Placement(height, width, 0, 0, size, size)
    longer = max(height, width)
    inner_height = max(1, round(height * size / longer))
    inner_width = max(1, round(width * size / longer))
    return Placement(height, width, (size - inner_height) // 2, (size - inner_width) // 2, inner_height, inner_width)


def fit_image(image: Picture, placement: Placement, size: int) -> Picture:
    """(H, W, C) to (size, size, C): area means where it shrinks, linear where a side grows; black around."""
    shrinks = placement.inner_height <= placement.height and placement.inner_width <= placement.width
    inner = _resized(image, placement, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    out = np.zeros((size, size, image.shape[2]), image.dtype)
    out[_inside(placement)] = inner.reshape(*inner.shape[:2], image.shape[2])
    return out


def fit_mask(mask: Pixels, placement: Placement, size: int, padding: Padding = "ignored") -> Pixels:
    """(H, W) labels to (size, size): the nearest label, around it 255, or 0 where the padding is background."""
    out = np.full((size, size), IGNORED if padding == "ignored" else 0, np.uint8)
    out[_inside(placement)] = _resized(mask, placement, cv2.INTER_NEAREST_EXACT)
    return out


def _resized(pixels: Picture, placement: Placement, how: int) -> Picture:
    if (placement.inner_height, placement.inner_width) == pixels.shape[:2]:
        return pixels
    wished = (placement.inner_width, placement.inner_height)
    resized: Any = cv2.resize(pixels, wished, interpolation=how)
    return np.asarray(resized, pixels.dtype)


def _inside(placement: Placement) -> tuple[slice, slice]:
    rows = slice(placement.top, placement.top + placement.inner_height)
    return rows, slice(placement.left, placement.left + placement.inner_width)
